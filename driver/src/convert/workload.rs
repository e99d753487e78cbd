//! Finds the pod specs in a manifest: in pods, in what makes pods, and in lists of both.
use serde_json::{Map, Value};

use super::{
    config::PREFIX,
    names::Names,
    notes::{Faults, Notes},
    pod::Place,
    tree::{At, type_of},
};

/// What is done with a pod spec that was found; true if it was changed.
pub(crate) trait Visitor {
    /// At one spec.
    fn visit(&mut self, spec: &mut Map<String, Value>, place: &Place) -> bool;
    /// Where to say what isn't looked at.
    fn notes(&mut self) -> &mut Notes;
    /// Where to say what is wrong.
    fn faults(&mut self) -> &mut Faults;
}

/// Looks at one document; true if anything in it was changed.
pub(crate) fn walk(document: &mut Value, at: &At, visitor: &mut impl Visitor) -> bool {
    walk_as(document, None, at, visitor)
}

fn walk_as(document: &mut Value, default_kind: Option<&str>, at: &At, visitor: &mut impl Visitor) -> bool {
    let Some(fields) = document.as_object_mut() else {
        visitor.faults().push(at, format!("is {}, but must be a Kubernetes object", type_of(document)));
        return false;
    };
    let Some(kind) = fields.get("kind").and_then(Value::as_str).or(default_kind).map(str::to_owned) else {
        visitor.faults().push(at, "has no kind, and is no Kubernetes object");
        return false;
    };
    if let Some(item_kind) = kind.strip_suffix("List") {
        let Some(items) = fields.get_mut("items").and_then(Value::as_array_mut) else {
            visitor.faults().push(at.field("items"), "must be a list");
            return false;
        };
        let item_kind = (!item_kind.is_empty()).then_some(item_kind);
        let mut is_changed = false;
        for (index, item) in items.iter_mut().enumerate() {
            is_changed |= walk_as(item, item_kind, &at.field("items").item(index), visitor);
        }
        return is_changed;
    }
    let metadata = fields.get("metadata");
    let text = |name: &str| metadata.and_then(|metadata| metadata.get(name)?.as_str()).filter(|text| !text.is_empty());
    let namespace = text("namespace").map(str::to_owned);
    let name = text("name").or_else(|| text("generateName").map(|name| name.trim_end_matches('-')));
    let owner = name.unwrap_or("pod").to_owned();
    let mut at = at.item_named(&format!("{kind} {owner}"));
    let Some(path) = path(&kind) else {
        let mut found = Vec::new();
        leftovers(document, &at, &mut found);
        for (at, name) in found {
            let why = if kind == "ResourceQuota" {
                "claims are counted as <class>.deviceclass.resource.k8s.io/devices".to_owned()
            } else {
                format!("convert doesn't know how a {kind} uses it")
            };
            visitor.notes().warn(at, format!("{name} stays as it is: {why}"));
        }
        return false;
    };
    let mut spec = fields;
    for step in path {
        at = at.field(step);
        match spec.get_mut(*step) {
            Some(Value::Object(inner)) => spec = inner,
            other => {
                let what = other.map_or("missing", |value| type_of(value));
                visitor.faults().push(&at, format!("is {what}, but must be an object"));
                return false;
            }
        }
    }
    visitor.visit(spec, &Place { at, namespace: namespace.as_deref(), owner: &owner })
}

/// Whether a kind is one that has pods, or makes them.
pub(crate) fn has_pods(kind: &str) -> bool {
    path(kind).is_some()
}

/// The fields that lead to a kind's pod spec.
fn path(kind: &str) -> Option<&'static [&'static str]> {
    Some(match kind {
        "Pod" => &["spec"],
        "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Job" | "ReplicationController" => {
            &["spec", "template", "spec"]
        }
        "CronJob" => &["spec", "jobTemplate", "spec", "template", "spec"],
        "PodTemplate" => &["template", "spec"],
        _ => return None,
    })
}

/// Names of NVIDIA's resources in limits, requests and quotas, at any depth.
fn leftovers(value: &Value, at: &At, found: &mut Vec<(At, String)>) {
    match value {
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, item)| leftovers(item, &at.item(index), found));
        }
        Value::Object(fields) => {
            for (name, value) in fields {
                if ["limits", "requests", "hard"].contains(&name.as_str())
                    && let Some(entries) = value.as_object()
                {
                    let plain = |key: &String| key.strip_prefix("requests.").unwrap_or(key).starts_with(PREFIX);
                    found.extend(entries.keys().filter(|key| plain(key)).map(|key| (at.field(name), key.clone())));
                }
                leftovers(value, &at.field(name), found);
            }
        }
        _ => {}
    }
}

/// The configuration that is in use on the nodes that a pod selects.
pub(crate) fn chosen<'a>(spec: &Map<String, Value>, all: &'a [(String, Names)], default: &'a Names) -> &'a Names {
    let label = spec.get("nodeSelector").and_then(|selector| selector.get("nvidia.com/device-plugin.config")?.as_str());
    let named = label.and_then(|label| all.iter().find(|(name, _)| name == label));
    named.map_or(default, |(_, names)| names)
}
