//! What clients ask before they ask for objects: versions, groups, resources.
use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::kinds::{KINDS, Kind};

/// The version that the server tells.
#[derive(Debug, Clone)]
pub(crate) struct Version(pub(crate) String);

impl Default for Version {
    fn default() -> Self {
        Self("v1.36.2".to_owned())
    }
}

/// The answer for a path that is no object's.
pub(crate) fn answer(path: &[&str], version: &Version) -> Option<Value> {
    match path {
        ["version"] => {
            let mut parts = version.0.trim_start_matches('v').split('.');
            let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            Some(json!({"major": major, "minor": minor, "gitVersion": version.0, "platform": "linux/amd64"}))
        }
        ["api"] => Some(json!({"kind": "APIVersions", "versions": ["v1"]})),
        ["apis"] => {
            let groups: BTreeSet<&str> =
                KINDS.iter().map(|kind| kind.group).filter(|group| !group.is_empty()).collect();
            let groups: Vec<Value> = groups.into_iter().map(group).collect();
            Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        ["api", version] => resources("", version),
        ["apis", name] => KINDS.iter().any(|kind| kind.group == *name).then(|| group(name)),
        ["apis", name, version] => resources(name, version),
        _ => None,
    }
}

fn group(name: &str) -> Value {
    let version = json!({"groupVersion": format!("{name}/v1"), "version": "v1"});
    json!({"kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": [version], "preferredVersion": version})
}

fn resources(group: &str, version: &str) -> Option<Value> {
    let kinds: Vec<&Kind> = KINDS.iter().filter(|kind| kind.group == group && kind.version == version).collect();
    let first = kinds.first()?;
    let verbs = json!(["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]);
    let mut resources = Vec::new();
    for kind in &kinds {
        let singular = kind.camel.to_lowercase();
        resources.push(json!({"name": kind.resource, "singularName": singular, "namespaced": kind.namespaced,
            "kind": kind.camel, "verbs": verbs}));
        if kind.status {
            resources.push(json!({"name": format!("{}/status", kind.resource), "singularName": "",
                "namespaced": kind.namespaced, "kind": kind.camel, "verbs": ["get", "patch", "update"]}));
        }
    }
    Some(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": first.api_version(), "resources": resources}),
    )
}
