//! Every overlay and component before a real API server, which would take all of it and keeps none.
use std::{
    collections::BTreeSet,
    io::Write as _,
    path::Path,
    process::{Command, Output, Stdio},
};

use aliquot_tests::{skip, testbed::Result};
use serde_json::{Value, json};

use super::{
    all, directories,
    kustomize::{build, deploy},
};

/// Groups of kinds that other projects bring; without them their objects are left out.
const FOREIGN: [&str; 2] = ["monitoring.coreos.com", "cert-manager.io"];

/// A real API server, by kubectl.
struct Cluster<'a> {
    kubectl: &'a Path,
    kubeconfig: &'a Path,
    /// Those that were made, since nothing can be tried in a namespace that isn't there.
    namespaces: BTreeSet<String>,
}

impl Cluster<'_> {
    fn kubectl(&self, arguments: &[&str], object: Option<&Value>) -> Result<Output> {
        let mut command = Command::new(self.kubectl);
        command.arg("--kubeconfig").arg(self.kubeconfig).args(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        if let (Some(mut input), Some(object)) = (child.stdin.take(), object) {
            input.write_all(object.to_string().as_bytes())?;
        }
        Ok(child.wait_with_output()?)
    }

    fn has(&self, group: &str) -> Result<bool> {
        let output = self.kubectl(&["api-resources", "--api-group", group, "-o", "name"], None)?;
        Ok(!output.stdout.is_empty())
    }

    fn make_namespaces(&mut self, objects: &[Value]) -> Result<()> {
        for object in objects.iter().filter(|object| object["kind"] == "Namespace") {
            let name = object["metadata"]["name"].as_str().unwrap().to_owned();
            if self.kubectl(&["create", "namespace", &name], None)?.status.success() {
                self.namespaces.insert(name);
            }
        }
        Ok(())
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        for namespace in self.namespaces.clone() {
            let _ = self.kubectl(&["delete", "namespace", &namespace], None);
        }
    }
}

/// What is applied, and what takes it away from the nodes again.
fn everything() -> Vec<(String, Vec<Value>)> {
    let mut everything = all();
    for dir in directories("uninstall") {
        let name = format!("uninstall/{}", dir.file_name().unwrap().display());
        everything.push((name, build(&deploy().join(dir)).unwrap()));
    }
    everything
}

#[test]
fn a_real_api_server_takes_every_overlay_and_component() -> Result<()> {
    let Some(kubeconfig) = skip::cluster() else { return Ok(()) };
    let Some(kubectl) = skip::kubectl() else { return Ok(()) };
    let mut cluster = Cluster { kubectl: &kubectl, kubeconfig: &kubeconfig, namespaces: BTreeSet::new() };
    let mut unknown = Vec::new();
    for group in FOREIGN {
        if !cluster.has(group)? {
            unknown.push(group);
        }
    }
    let (mut tried, mut left) = (0, BTreeSet::new());
    for (name, objects) in everything() {
        cluster.make_namespaces(&objects)?;
        let is_unknown = |object: &&Value| {
            let version = object["apiVersion"].as_str().unwrap_or_default();
            unknown.iter().any(|group| version.starts_with(group))
        };
        left.extend(objects.iter().filter(is_unknown).map(|object| format!("{name}: {}", object["kind"])));
        let items: Vec<&Value> = objects.iter().filter(|object| !is_unknown(object)).collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        let output = cluster
            .kubectl(&["apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-"], Some(&list))?;
        let told = String::from_utf8_lossy(&output.stdout);
        let refused = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {refused}");
        assert_eq!(told.lines().count(), items.len(), "{name}: {told}");
        assert!(!refused.contains("Warning:"), "{name}: {refused}");
        tried += items.len();
    }
    println!("{tried} objects were taken; of kinds that the cluster doesn't know: {left:?}");
    Ok(())
}
