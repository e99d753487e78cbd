//! `aliquot-driver convert`: the device plugin's configurations and pods, and what runs after it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod live;
mod streams;

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use aliquot_tests::{
    node::Artifacts,
    testbed::{Result, Testbed, apply, documents},
};
use serde_json::{Value, json};

/// Time slicing in ten, in the device plugin's `ConfigMap`, as a home cluster has it.
const TEN: &str = "\
apiVersion: v1
kind: ConfigMap
metadata: {name: nvidia-device-plugin, namespace: gpu-device-plugin}
data:
  config.yaml: |
    version: v1
    sharing:
      timeSlicing:
        renameByDefault: false  # the name stays
        failRequestsGreaterThanOne: true
        resources:
        - {name: nvidia.com/gpu, replicas: 10}
";

const POD: &str = "\
# A test of the GPU.
apiVersion: v1
kind: Pod
metadata: {name: gpu-test}
spec:
  runtimeClassName: nvidia
  restartPolicy: Never
  tolerations: [{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]
  nodeSelector: {nvidia.com/gpu.present: 'true'}
  x-unknown: {mode: 0644, list: [1, 2.5, null]}
  containers:
  - name: main
    image: ubuntu:24.04
    command: [nvidia-smi]
    env: [{name: NVIDIA_VISIBLE_DEVICES, value: all}]
    resources: {limits: {nvidia.com/gpu: '1', memory: 1Gi}}
";

struct Run {
    ok: bool,
    stdout: String,
    stderr: String,
}

/// Runs the binary in a directory.
fn convert(dir: &Path, args: &[&str]) -> Run {
    let mut command = Command::new(Artifacts::find().unwrap().driver());
    let Output { status, stdout, stderr } = command.current_dir(dir).arg("convert").args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Run { ok: status.success(), stdout: text(stdout), stderr: text(stderr) }
}

fn dir_with(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn time_slicing_in_ten_becomes_a_policy_with_ten_shares() {
    let dir = dir_with(&[("ten.yaml", TEN), ("pod.yaml", POD)]);
    let run = convert(dir.path(), &["--config", "ten.yaml", "--out", "out", "pod.yaml"]);
    assert!(run.ok && run.stdout.is_empty(), "{}", run.stderr);
    assert!(run.stderr.lines().all(|line| line.starts_with("note: ")), "{}", run.stderr);
    let out = dir.path().join("out");
    assert_eq!(names(&out), ["claim-templates.yaml", "pod.yaml", "policy-configmap.yaml", "policy.yaml"]);
    let policy = "\
# What is offered of each GPU, converted from ten.yaml, config.
# The first rule that matches a GPU decides.
apiVersion: gpu.aliquot.dev/v1alpha1
kind: Policy
rules:
# nvidia.com/gpu: 10 replicas of each GPU.
# The device plugin offered them as replicas only. Here a GPU is both, until someone uses it; offer [shares] to
# never hand one out whole.
- offer: [whole, shares]
  shares:
    count: 10
    # A share counts as its part of the GPU's memory, so that the shares of one GPU never add up to more than it
    # has. Replicas had no such limit: a pod that needs more asks with capacity.requests.memory.
    order: spread # as with sharedDevicesAllocationPolicy: distributed
    # Only watched, as the device plugin limits no one; evict and kill end the pods that take more than their part.
    guard: {mode: observe, grace: 10s}
  # Where the API server lacks the features for both, the replicas are what pods had.
  fallback: shares
";
    assert_eq!(fs::read_to_string(out.join("policy.yaml")).unwrap(), policy);
    let map: Value = serde_saphyr::from_str(&fs::read_to_string(out.join("policy-configmap.yaml")).unwrap()).unwrap();
    assert_eq!(map["data"], json!({"policy.yaml": policy}));
    let pod: Value = serde_saphyr::from_str(&fs::read_to_string(out.join("pod.yaml")).unwrap()).unwrap();
    assert_eq!(
        pod,
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "gpu-test"}, "spec": {
            "restartPolicy": "Never",
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "nodeSelector": {"nvidia.com/gpu.present": "true"},
            "x-unknown": {"mode": 420, "list": [1, 2.5, null]},
            "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "nvidia-gpu-share"}],
            "containers": [{"name": "main", "image": "ubuntu:24.04", "command": ["nvidia-smi"],
                "resources": {"limits": {"memory": "1Gi"}, "claims": [{"name": "gpu"}]}}],
        }})
    );
    let template: Value =
        serde_saphyr::from_str(&fs::read_to_string(out.join("claim-templates.yaml")).unwrap()).unwrap();
    let request = json!({"name": "gpu", "exactly": {"deviceClassName": "share.gpu.aliquot.dev"}});
    assert_eq!(template["spec"]["spec"]["devices"]["requests"], json!([request]));
}

#[test]
fn the_forms_of_nvidias_readme_are_understood() {
    for (config, name, count) in [
        (
            "version: v1\nsharing: {timeSlicing: {resources: [{name: nvidia.com/gpu, replicas: 10}]}}",
            "nvidia.com/gpu",
            Some(10),
        ),
        (
            "{\"version\": \"v1\", \"sharing\": {\"timeSlicing\": {\"renameByDefault\": true, \"resources\": [{\"name\": \
             \"nvidia.com/gpu\", \"replicas\": 10}]}}}",
            "nvidia.com/gpu.shared",
            Some(10),
        ),
        (
            "version: v1\nflags: {migStrategy: none, failOnInitError: true, nvidiaDriverRoot: /, plugin: {passDeviceSpecs: \
             false, deviceListStrategy: [envvar], deviceIDStrategy: uuid}}",
            "nvidia.com/gpu",
            None,
        ),
    ] {
        let dir = dir_with(&[("c", config), ("pod", &POD.replace("nvidia.com/gpu:", &format!("{name}:")))]);
        let run = convert(dir.path(), &["--config", "c", "pod"]);
        assert!(run.ok && !run.stderr.contains("warning: "), "{}", run.stderr);
        let all: Vec<Value> = documents(&run.stdout).unwrap();
        let policy: Value = serde_saphyr::from_str(all[0]["data"]["policy.yaml"].as_str().unwrap()).unwrap();
        assert_eq!(policy["rules"][0]["shares"]["count"].as_u64(), count, "{config}");
        let class = all[1]["spec"]["spec"]["devices"]["requests"][0]["exactly"]["deviceClassName"].as_str().unwrap();
        assert_eq!(class.starts_with("share."), count.is_some(), "{config}");
    }
}

#[test]
fn pods_can_stay_as_they_are() {
    let dir = dir_with(&[("ten.yaml", TEN), ("pod.yaml", POD)]);
    let run = convert(dir.path(), &["--config", "ten.yaml", "--keep-pods", "-o", "yaml", "pod.yaml"]);
    assert!(run.ok, "{}", run.stderr);
    let all: Vec<Value> = documents(&run.stdout).unwrap();
    let kinds: Vec<&str> = all.iter().map(|object| object["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["ConfigMap", "DeviceClass"]);
    assert_eq!(all[1]["spec"]["extendedResourceName"], "nvidia.com/gpu");
    assert!(all[1].to_string().contains("type == \\\"share\\\""));
}

#[test]
fn nothing_is_overwritten_without_force_and_nothing_half_written() {
    let dir = dir_with(&[("ten.yaml", TEN), ("pod.yaml", POD), ("bad.yaml", "kind: Deployment\nspec: 3\n")]);
    let run = convert(dir.path(), &["--config", "ten.yaml", "--out", "out", "pod.yaml", "bad.yaml"]);
    assert!(!run.ok && run.stderr.contains("bad.yaml: Deployment pod: spec: is a number"), "{}", run.stderr);
    assert!(!dir.path().join("out").exists());

    fs::create_dir(dir.path().join("out")).unwrap();
    fs::write(dir.path().join("out/pod.yaml"), "mine").unwrap();
    let run = convert(dir.path(), &["--config", "ten.yaml", "--out", "out", "pod.yaml"]);
    assert!(!run.ok && run.stderr.contains("out/pod.yaml exists") && run.stderr.contains("--force"), "{}", run.stderr);
    assert_eq!(names(&dir.path().join("out")), ["pod.yaml"]);

    let run = convert(dir.path(), &["--config", "ten.yaml", "--out", "out", "--force", "pod.yaml"]);
    assert!(run.ok && names(&dir.path().join("out")).len() == 4, "{}", run.stderr);
    assert!(fs::read_to_string(dir.path().join("out/pod.yaml")).unwrap().contains("resourceClaims"));

    // A directory in a file's place can't be replaced, so that all that is there stays.
    fs::create_dir_all(dir.path().join("new/pod.yaml")).unwrap();
    fs::write(dir.path().join("new/policy.yaml"), "mine").unwrap();
    let run = convert(dir.path(), &["--config", "ten.yaml", "--out", "new", "--force", "pod.yaml"]);
    assert!(!run.ok && run.stderr.contains("new/pod.yaml exists and is no file; nothing is written"), "{}", run.stderr);
    assert_eq!(names(&dir.path().join("new")), ["pod.yaml", "policy.yaml"]);
    assert_eq!(fs::read_to_string(dir.path().join("new/policy.yaml")).unwrap(), "mine");
}

#[test]
fn bad_input_is_told_with_its_file_and_place() {
    let large = " ".repeat((1 << 20) + 1);
    let larger = " ".repeat((64 << 20) + 1);
    let replicas = TEN.replace("replicas: 10", "replicas: 1");
    let dir = dir_with(&[
        ("ten.yaml", TEN),
        ("pod.yaml", POD),
        ("large", &large),
        ("larger", &larger),
        ("one", &replicas),
        ("open", "a: ["),
    ]);
    fs::write(dir.path().join("binary"), b"ab\xff").unwrap();
    for (args, words) in [
        (vec![], vec!["nothing to convert", "--config"]),
        (vec!["none"], vec!["none can't be read"]),
        (vec!["binary"], vec!["binary isn't UTF-8", "byte 2"]),
        (vec!["--config", "large"], vec!["large is more than 1 MiB"]),
        (vec!["larger"], vec!["larger is more than 64 MiB", "several files"]),
        (vec!["--config", "open"], vec!["error: open: isn't YAML", "line 1"]),
        (vec!["--config", "pod.yaml"], vec!["pod.yaml: holds no configuration"]),
        (vec!["--config", "one"], vec!["one: data[\"config.yaml\"]: sharing.timeSlicing.resources[0].replicas: is 1"]),
        (vec!["--keep-pods", "pod.yaml"], vec!["--config"]),
        (vec!["pod.yaml", "./pod.yaml"], vec!["two files of the result would be pod.yaml"]),
    ] {
        let run = convert(dir.path(), &args);
        let missing: Vec<&&str> = words.iter().filter(|word| !run.stderr.contains(**word)).collect();
        assert!(!run.ok && run.stdout.is_empty() && missing.is_empty(), "{args:?}: {missing:?} in {}", run.stderr);
        assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn converted_pods_get_the_gpus_that_they_asked_for() -> Result<()> {
    let config = "resources: {gpus: [{pattern: '*H100*80GB*', name: h100}, {pattern: '*', name: other}]}";
    let container = |name: &str, gpus: u64| json!({"name": name, "image": "ubuntu:24.04", "resources": {"limits": {"nvidia.com/h100": gpus}}});
    let spec =
        json!({"initContainers": [container("warm-up", 2)], "containers": [container("one", 1), container("two", 2)]});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "both"}, "spec": spec});
    let dir = dir_with(&[("config.yaml", config), ("pod.json", &pod.to_string())]);
    let run = convert(dir.path(), &["--config", "config.yaml", "pod.json"]);
    assert!(run.ok, "{}", run.stderr);
    let mut objects: Vec<Value> = documents(&run.stdout)?;
    let pod = objects.pop().unwrap();
    objects.retain(|object| object["kind"] != "ConfigMap");
    let testbed = Testbed::start("h100x8").await?;
    apply(&testbed.client, &objects).await?;
    let (_, running) = testbed.run_pod(pod).await?;
    let gpus = |name: &str| {
        let ids = running.containers.get(name).cloned().unwrap_or_default();
        let nodes = testbed.nodes_of(&ids).unwrap();
        let is_gpu = |node: &&String| node.trim_start_matches("/dev/nvidia").chars().all(|c| c.is_ascii_digit());
        nodes.iter().filter(is_gpu).cloned().collect::<Vec<_>>()
    };
    assert_eq!((gpus("one").len(), gpus("two").len()), (1, 2));
    assert_eq!(gpus("warm-up"), gpus("two"), "it ends before they start");
    assert!(!gpus("two").contains(&gpus("one")[0]));
    Ok(())
}
