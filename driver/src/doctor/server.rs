//! Checks `api-server`, `dra-api` and `kubelet`: they are there, and new enough for DRA.
use k8s_openapi::api::core::v1::Node;

use super::{api::Answer, check::Check, runtime::Release};

const SERVER: &str = "api-server";
const DRA: &str = "dra-api";
const KUBELET: &str = "kubelet";

/// Where `resource.k8s.io/v1` came, and with it the kubelet's DRA v1.
const OLDEST: Release = (1, 34);
/// The newest that this driver was tested with.
const NEWEST: Release = (1, 37);

/// Major and minor of `v1.36.2`, `1.34+` or `2.1.9-k3s1`.
pub(super) fn release(version: &str) -> Option<Release> {
    let mut parts = version.trim_start_matches('v').split('.');
    let major = parts.next()?.parse().ok()?;
    let minor: String = parts.next()?.chars().take_while(char::is_ascii_digit).collect();
    Some((major, minor.parse().ok()?))
}

pub(super) fn server(version: &Answer<String>) -> Check {
    let version = match version {
        Ok(version) => version,
        Err(error) => return Check::failed(SERVER, error.reason.clone(), error.fix()),
    };
    match release(version) {
        Some(release) if release < OLDEST => Check::failed(
            SERVER,
            format!("Kubernetes {version}, which has no resource.k8s.io/v1"),
            "update the control plane to Kubernetes 1.34 or newer; 1.36 has shares beside whole GPUs on by default",
        ),
        Some(release) if release > NEWEST => Check::warning(
            SERVER,
            format!("Kubernetes {version} is newer than {}.{}, the last that was tested", NEWEST.0, NEWEST.1),
            "look for a newer release of aliquot",
        ),
        _ => Check::ok(SERVER, format!("Kubernetes {version}")),
    }
}

/// The versions of the group `resource.k8s.io` that are served.
pub(super) fn dra(versions: &Answer<Vec<String>>) -> Check {
    match versions {
        Err(error) => Check::skipped(DRA, error.reason.clone()),
        Ok(versions) if versions.iter().any(|version| version == "v1") => {
            Check::ok(DRA, format!("resource.k8s.io {}", versions.join(", ")))
        }
        Ok(versions) => {
            let found = if versions.is_empty() {
                "resource.k8s.io isn't served".to_owned()
            } else {
                format!("resource.k8s.io is served as {} only", versions.join(", "))
            };
            let fix = "run Kubernetes 1.34 or newer without --runtime-config=resource.k8s.io/v1=false, and with the feature \
                       gate DynamicResourceAllocation on";
            Check::failed(DRA, found, fix)
        }
    }
}

/// The Node tells of its kubelet.
pub(super) fn kubelet(name: &str, node: &Answer<Option<Node>>) -> Check {
    let node = match node {
        Err(error) => return Check::skipped(KUBELET, error.reason.clone()),
        Ok(None) => {
            return Check::failed(
                KUBELET,
                format!("the cluster has no Node {name}"),
                "set --node-name (NODE_NAME) to this node's name in kubectl get nodes; in a DaemonSet from spec.nodeName",
            );
        }
        Ok(Some(node)) => node,
    };
    let info = node.status.as_ref().and_then(|status| status.node_info.as_ref());
    let version = info.map(|info| info.kubelet_version.as_str()).unwrap_or_default();
    match release(version) {
        None => Check::skipped(KUBELET, format!("Node {name} doesn't tell its kubelet's version")),
        Some(release) if release < OLDEST => Check::failed(
            KUBELET,
            format!("the kubelet of {name} is {version}, which has no DRA v1"),
            "update the node's kubelet to 1.34 or newer",
        ),
        Some(_) => Check::ok(KUBELET, format!("{version} on {name}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::doctor::{api::Unanswered, check::Verdict};

    #[test]
    fn releases_are_read_from_what_distributions_make_of_them() {
        for (version, expected) in [
            ("v1.36.2", Some((1, 36))),
            ("1.34+", Some((1, 34))),
            ("v1.35.1-gke.1200", Some((1, 35))),
            ("2.1.9-k3s1", Some((2, 1))),
            ("v1", None),
            ("", None),
        ] {
            assert_eq!(release(version), expected, "{version}");
        }
    }

    #[test]
    fn old_servers_fail_and_untested_ones_warn() {
        let verdict = |version: &str| server(&Ok(version.to_owned())).verdict;
        assert_eq!(verdict("v1.33.9"), Verdict::Failed);
        assert_eq!((verdict("v1.34.0"), verdict("v1.37.4")), (Verdict::Ok, Verdict::Ok));
        assert_eq!(verdict("v1.38.0"), Verdict::Warning);
        let check = server(&Err(Unanswered::away("refused")));
        assert!(check.verdict == Verdict::Failed && check.fix.unwrap().contains("KUBECONFIG"));
    }

    #[test]
    fn a_beta_of_the_group_is_not_enough() {
        let served = |versions: &[&str]| dra(&Ok(versions.iter().map(|v| (*v).to_owned()).collect()));
        assert_eq!(served(&["v1", "v1beta2"]).verdict, Verdict::Ok);
        assert!(served(&["v1beta1"]).found.contains("v1beta1 only"));
        assert_eq!(served(&[]).verdict, Verdict::Failed);
    }

    #[test]
    fn the_node_must_be_there_with_a_kubelet_that_knows_dra() {
        let node = |version: &str| {
            let node = json!({"metadata": {}, "status": {"nodeInfo": {"kubeletVersion": version, "architecture": "",
                "bootID": "", "containerRuntimeVersion": "", "kernelVersion": "", "kubeProxyVersion": "", "machineID": "",
                "operatingSystem": "", "osImage": "", "systemUUID": ""}}});
            Ok(Some(serde_json::from_value(node).unwrap()))
        };
        assert_eq!(kubelet("node1", &node("v1.34.1")).verdict, Verdict::Ok);
        assert_eq!(kubelet("node1", &node("v1.33.1")).verdict, Verdict::Failed);
        assert_eq!(kubelet("node1", &node("")).verdict, Verdict::Skipped);
        assert!(kubelet("node1", &Ok(None)).fix.unwrap().contains("--node-name"));
        assert_eq!(kubelet("node1", &Err(Unanswered::away("no"))).verdict, Verdict::Skipped);
    }
}
