//! The manifests that clear nodes: they reach every directory that the driver's pods write, on each kind of node.
use std::{collections::BTreeMap, path::Path};

use aliquot_tests::testbed::{DRIVER, Result};
use serde_json::Value;

use super::{
    by, daemon_set, environment,
    kustomize::{build, deploy},
    pod,
};

/// The kinds of nodes on which something is elsewhere, and those on which nothing is.
const KINDS: [(&str, &str); 5] = [
    ("base", "base"),
    ("overlays/k0s", "k0s"),
    ("overlays/microk8s", "microk8s"),
    ("overlays/gke", "gke"),
    ("overlays/nvidia-names", "nvidia-names"),
];
/// Which root the driver reads is for which of its volumes.
const ROOTS: [(&str, &str); 5] = [
    ("plugin", "ALIQUOT_KUBELET_ROOT"),
    ("registry", "ALIQUOT_KUBELET_ROOT"),
    ("cdi", "ALIQUOT_CDI_ROOT"),
    ("records", "ALIQUOT_RUN_ROOT"),
    ("hook", "ALIQUOT_HOOK_ROOT"),
];

fn host_paths(pod: &Value) -> BTreeMap<String, String> {
    let volumes = by(&pod["volumes"], "name");
    let path = |volume: &Value| volume["hostPath"]["path"].as_str().unwrap().to_owned();
    volumes.into_iter().map(|(name, volume)| (name.to_owned(), path(volume))).collect()
}

/// Where in the init container a directory of the host is.
fn inside(pod: &Value, init: &Value, host: &str) -> Option<String> {
    let paths = host_paths(pod);
    let mounts = by(&init["volumeMounts"], "mountPath");
    let found = mounts.into_iter().filter_map(|(at, mount)| {
        let above = &paths[mount["name"].as_str()?];
        let rest = Path::new(host).strip_prefix(above).ok()?;
        Some((above.len(), Path::new(at).join(rest).to_string_lossy().trim_end_matches('/').to_owned()))
    });
    found.max().map(|(_, path)| path)
}

#[test]
fn what_the_driver_writes_on_the_host_is_where_the_uninstall_looks() -> Result<()> {
    for (kind, uninstall) in KINDS {
        let driver = build(&deploy().join(kind))?;
        let written = host_paths(pod(&driver).0);
        let objects = build(&deploy().join("uninstall").join(uninstall))?;
        let (pod, _) = pod(&objects);
        let init = &pod["initContainers"][0];
        let environment = environment(init);
        let name = environment.get("ALIQUOT_DRIVER_NAME").copied().unwrap_or(DRIVER);
        for (volume, root) in ROOTS {
            let found = inside(pod, init, &written[volume]).ok_or_else(|| format!("{kind}: {}", written[volume]))?;
            let root = environment[root];
            let expected = match volume {
                "plugin" => format!("{root}/plugins/{name}"),
                "registry" => format!("{root}/plugins_registry"),
                _ => root.to_owned(),
            };
            assert_eq!(found, expected, "{kind}: {volume}");
        }
    }
    Ok(())
}

#[test]
fn every_other_overlay_leaves_the_writing_where_the_base_has_it() -> Result<()> {
    let written = |dir: &Path| -> Result<BTreeMap<String, String>> {
        let mut paths = host_paths(pod(&build(dir)?).0);
        paths.retain(|volume, _| ROOTS.iter().any(|(name, _)| name == volume));
        Ok(paths)
    };
    let base = written(&deploy().join("base"))?;
    for overlay in super::directories("overlays") {
        let name = super::name(&overlay);
        if KINDS.iter().all(|(kind, _)| kind.strip_prefix("overlays/") != Some(name.as_str())) {
            assert_eq!(written(&overlay)?, base, "{name} needs an overlay in deploy/uninstall");
        }
    }
    Ok(())
}

#[test]
fn its_pods_have_no_more_than_it_takes() -> Result<()> {
    for (_, uninstall) in KINDS {
        let objects = build(&deploy().join("uninstall").join(uninstall))?;
        let (pod, done) = pod(&objects);
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert!(done.get("volumeMounts").is_none(), "the one that stays sees nothing of the host");
        for container in [&pod["initContainers"][0], done] {
            assert_eq!(container["securityContext"]["capabilities"]["drop"][0], "ALL");
            assert_eq!(container["image"], pod["initContainers"][0]["image"]);
            assert!(container["resources"]["limits"]["memory"].is_string());
        }
        assert_eq!(daemon_set(&objects)["metadata"]["namespace"], "aliquot-uninstall");
    }
    Ok(())
}
