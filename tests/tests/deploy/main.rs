//! The manifests as they would be applied: every overlay and component, put together as kustomize does.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod kustomize;
mod network;
mod server;
mod uninstall;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

use aliquot_tests::testbed::{DRIVER, Result};
use kustomize::{build, deploy};
use serde_json::{Value, json};

/// What users apply: the base, the overlays, and the base with each component.
fn all() -> Vec<(String, Vec<Value>)> {
    let mut all = vec![("base".to_owned(), build(&deploy().join("base")).unwrap())];
    for overlay in directories("overlays") {
        all.push((name(&overlay), build(&overlay).unwrap()));
    }
    for component in directories("components") {
        let mut objects = all[0].1.clone();
        kustomize::add(&mut objects, &component).unwrap();
        all.push((name(&component), objects));
    }
    all
}

fn directories(of: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(deploy().join(of)).unwrap();
    let mut all: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    all.sort();
    all
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// The base with one component.
fn with(component: &str) -> Vec<Value> {
    all().into_iter().find(|(name, _)| name == component).unwrap().1
}

fn daemon_set(objects: &[Value]) -> &Value {
    objects.iter().find(|object| object["kind"] == "DaemonSet").unwrap()
}

/// Its pods, and their one container.
fn pod(objects: &[Value]) -> (&Value, &Value) {
    let pod = &daemon_set(objects)["spec"]["template"]["spec"];
    assert_eq!(pod["containers"].as_array().unwrap().len(), 1);
    (pod, &pod["containers"][0])
}

/// By one of their fields.
fn by<'a>(list: &'a Value, key: &str) -> BTreeMap<&'a str, &'a Value> {
    let list: Vec<&Value> = list.as_array().unwrap().iter().collect();
    let all: BTreeMap<&str, &Value> = list.iter().map(|one| (one[key].as_str().unwrap(), *one)).collect();
    assert_eq!(all.len(), list.len(), "{key} twice");
    all
}

fn environment(container: &Value) -> BTreeMap<&str, &str> {
    by(&container["env"], "name")
        .into_iter()
        .map(|(name, one)| (name, one["value"].as_str().unwrap_or("(field)")))
        .collect()
}

#[test]
fn every_mount_has_its_volume_and_every_volume_is_mounted() {
    for (name, objects) in all() {
        let (pod, container) = pod(&objects);
        let volumes: BTreeSet<&str> = by(&pod["volumes"], "name").into_keys().collect();
        let mounts = by(&container["volumeMounts"], "mountPath");
        let mounted: BTreeSet<&str> = mounts.values().map(|mount| mount["name"].as_str().unwrap()).collect();
        assert_eq!(volumes, mounted, "{name}");
    }
}

#[test]
fn every_variable_is_one_that_the_driver_reads() -> Result<()> {
    let driver = aliquot_tests::node::Artifacts::find()?.driver();
    let help = |command: &str| -> Result<String> {
        let output = Command::new(&driver).args([command, "--help"]).output()?;
        Ok(String::from_utf8(output.stdout)?)
    };
    let help = help("run")? + &help("doctor")?;
    for (name, objects) in all() {
        for variable in environment(pod(&objects).1).into_keys() {
            assert!(help.contains(&format!("[env: {variable}")), "{name}: {variable}");
        }
    }
    Ok(())
}

#[test]
fn the_kubelets_directories_are_the_same_inside_and_outside_and_sockets_fit_into_their_paths() {
    for (name, objects) in all() {
        let (pod, container) = pod(&objects);
        let environment = environment(container);
        let root = environment.get("ALIQUOT_KUBELET_ROOT").copied().unwrap_or("/var/lib/kubelet");
        let hook_root = environment.get("ALIQUOT_HOOK_ROOT").copied().unwrap_or("/var/lib/aliquot");
        let driver = environment.get("ALIQUOT_DRIVER_NAME").copied().unwrap_or(DRIVER);
        let (volumes, mounts) = (by(&pod["volumes"], "name"), by(&container["volumeMounts"], "name"));
        for (volume, path) in [
            ("plugin", format!("{root}/plugins/{driver}")),
            ("registry", format!("{root}/plugins_registry")),
            ("pod-resources", format!("{root}/pod-resources")),
            ("cdi", "/var/run/cdi".to_owned()),
            // Containers' runtimes start the hook from there.
            ("hook", hook_root.to_owned()),
        ] {
            let (host, inside) = (volumes.get(volume), mounts.get(volume));
            assert_eq!(host.map(|one| &one["hostPath"]["path"]), Some(&json!(path)), "{name}: {volume}");
            assert_eq!(inside.map(|one| &one["mountPath"]), Some(&json!(path)), "{name}: {volume}");
        }
        // The kubelet has this one there whatever its root (DevicePluginPath); the driver looks below the root.
        let host = volumes.get("device-plugins").map(|one| &one["hostPath"]["path"]);
        assert_eq!(host, Some(&json!("/var/lib/kubelet/device-plugins")), "{name}");
        let inside = mounts.get("device-plugins").map(|one| &one["mountPath"]);
        assert_eq!(inside, Some(&json!(format!("{root}/device-plugins"))), "{name}");
        // By eight digits of its UID, of the 107 bytes that a socket's path can have.
        let socket = format!("{root}/plugins_registry/{driver}-00000000@reg.sock");
        assert!(socket.len() <= 107, "{name}: {socket}");
        // Two pods at once can serve only by sockets of their own.
        assert!(environment.contains_key("POD_UID"), "{name}");
        let update = &daemon_set(&objects)["spec"]["updateStrategy"]["rollingUpdate"];
        assert!(update["maxSurge"] != 0 && update["maxUnavailable"] == 0, "{name}: {update}");
    }
}

#[test]
fn a_driver_root_is_read_only_and_named_as_it_is_on_the_host() {
    for (name, objects) in all() {
        let (pod, container) = pod(&objects);
        let environment = environment(container);
        let (inside, outside) = (environment["ALIQUOT_DRIVER_ROOT"], environment["ALIQUOT_DRIVER_ROOT_ON_HOST"]);
        let volumes = by(&pod["volumes"], "name");
        let mounts = by(&container["volumeMounts"], "mountPath");
        let mut found = 0;
        for (path, mount) in mounts {
            let volume = mount["name"].as_str().unwrap();
            if !volume.starts_with("driver") {
                continue;
            }
            found += 1;
            assert_eq!(mount["readOnly"], true, "{name}: {path}");
            let host = volumes[volume]["hostPath"]["path"].as_str().unwrap();
            // The volume may be the root, hold it, or be a part of it.
            let expected = Path::new(path).strip_prefix(inside).map(|rest| Path::new(outside).join(rest));
            let holds = Path::new(inside).starts_with(path) && path == host && inside == outside;
            assert!(holds || expected.is_ok_and(|expected| expected == Path::new(host)), "{name}: {host} at {path}");
        }
        assert!(found > 0, "{name}");
    }
}

#[test]
fn what_the_pod_may_do_is_what_is_said() {
    for (name, objects) in all() {
        let (pod, container) = pod(&objects);
        let security = &container["securityContext"];
        let expected = json!({"privileged": true, "readOnlyRootFilesystem": true, "runAsUser": 0, "runAsGroup": 0});
        assert_eq!(*security, expected, "{name}");
        assert!(["hostNetwork", "hostIPC"].iter().all(|field| pod.get(field).is_none()), "{name}");
        let (guards, moves) = (name == "guard", name == "vfio-dynamic");
        assert_eq!(pod.get("hostPID").is_some(), guards || moves, "{name}");
        let kept = environment(container)["ALIQUOT_KEEP_CAPABILITIES"];
        let expected = match name.as_str() {
            "guard" => "sys_admin,kill",
            "vfio-dynamic" => "sys_admin,kill,sys_ptrace",
            _ => "sys_admin",
        };
        assert_eq!(kept, expected, "{name}");
        let mounts = by(&container["volumeMounts"], "name");
        let writable = mounts.iter().filter(|(_, mount)| mount["readOnly"] != true).map(|(name, _)| *name);
        let plain = ["cdi", "hook", "plugin", "records", "registry"];
        let expected: Vec<&str> = plain.into_iter().chain(moves.then_some("sys")).collect();
        assert_eq!(writable.collect::<Vec<_>>(), expected, "{name}");
        let whole_hosts = |volume: &&Value| volume["hostPath"]["path"] == "/" || volume["hostPath"]["path"] == "/run";
        assert_eq!(pod["volumes"].as_array().unwrap().iter().filter(whole_hosts).count(), 0, "{name}");
        let resources = &container["resources"];
        assert!(resources["requests"]["memory"].is_string() && resources["limits"]["memory"].is_string(), "{name}");
        assert!(["readinessProbe", "livenessProbe"].iter().all(|probe| container[probe]["httpGet"].is_object()));
    }
}

#[test]
fn the_image_is_the_one_that_xtask_writes() {
    for (name, objects) in all() {
        let expected = format!("localhost/aliquot:{}", env!("CARGO_PKG_VERSION"));
        assert_eq!(pod(&objects).1["image"], expected.as_str(), "{name}");
    }
}

/// What kustomize makes of a directory.
fn theirs(kubectl: &Path, dir: &Path) -> Result<Vec<Value>> {
    let output = Command::new(kubectl).arg("kustomize").arg(dir).output()?;
    assert!(output.status.success(), "{}: {}", dir.display(), String::from_utf8_lossy(&output.stderr));
    aliquot_tests::testbed::documents(&String::from_utf8(output.stdout)?)
}

/// The base with a component: kustomize takes directories by relative paths only.
fn with_component(component: &Path) -> Result<tempfile::TempDir> {
    let dir = tempfile::tempdir()?;
    let up = "../".repeat(dir.path().canonicalize()?.components().count() - 1);
    let relative = |path: &Path| -> Result<String> {
        Ok(up.clone() + path.canonicalize()?.to_string_lossy().trim_start_matches('/'))
    };
    let own = json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
        "resources": [relative(&deploy().join("base"))?], "components": [relative(component)?],
    });
    std::fs::write(dir.path().join("kustomization.yaml"), own.to_string())?;
    Ok(dir)
}

/// By what they are the same to the API server.
fn identities(objects: &[Value]) -> BTreeSet<String> {
    let all = objects.iter().map(|object| {
        let meta = &object["metadata"];
        format!("{} {} {} {}", object["apiVersion"], object["kind"], meta["namespace"], meta["name"])
    });
    all.collect()
}

#[test]
fn kustomize_puts_the_same_together() -> Result<()> {
    let Some(kubectl) = aliquot_tests::skip::kubectl() else { return Ok(()) };
    for (name, objects) in all() {
        let plain =
            [deploy().join(&name), deploy().join("overlays").join(&name)].into_iter().find(|path| path.is_dir());
        let theirs = match plain {
            Some(dir) => theirs(&kubectl, &dir)?,
            None => theirs(&kubectl, with_component(&deploy().join("components").join(&name))?.path())?,
        };
        assert_eq!(identities(&objects), identities(&theirs), "{name}");
        let theirs = kustomize::sorted(daemon_set(&theirs).clone());
        assert_eq!(kustomize::sorted(daemon_set(&objects).clone()), theirs, "{name}");
    }
    Ok(())
}
