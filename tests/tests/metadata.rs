//! What containers may read of their devices (KEP-5304): with the driver's binary, and in real containers.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
use std::path::PathBuf;

use aliquot_tests::{
    objects::{allocation, pod, share, templates, whole},
    passthrough::Function,
    runtime::{ContainerSpec, Containerd, PodSpec, Runtime},
    skip::toolbox,
    testbed::{DRIVER, Result, Testbed, apply},
};
use fake_apiserver::Server;
use kubelet_api::dra::v1::Claim;
use serde_json::{Value, json};

/// The first two GPUs of profile a100x4.
const SHARED: &str = "gpu-0000-07-00-shared";
const WHOLE: &str = "gpu-0000-0f-00";
const BELOW: &str = "/var/run/kubernetes.io/dra-device-attributes";

async fn started(whom: &str) -> Result<Testbed> {
    let mut testbed = Testbed::without_driver("a100x4", Server::builder()).await?;
    testbed.start_driver(&environment(whom))?;
    testbed.ready().await?;
    Ok(testbed)
}

fn environment(whom: &str) -> [(&str, &str); 3] {
    [("ALIQUOT_DEVICE_METADATA", whom), ("ALIQUOT_SWEEP_INTERVAL", "50ms"), ("ALIQUOT_SWEEP_GRACE", "500ms")]
}

/// A claim to a share and to a whole GPU.
async fn claim(testbed: &Testbed, name: &str) -> Result<Claim> {
    let results = [share("share/small", SHARED, 2, 8), whole("whole", WHOLE)];
    testbed.allocated_as(name, allocation(&results)).await
}

/// The CDI ids of each device of a claim.
async fn prepare(testbed: &Testbed, claim: &Claim) -> Result<Vec<Vec<String>>> {
    let answer = testbed.kubelet.client(DRIVER)?.prepare(vec![claim.clone()]).await?;
    let answer = answer.claims.get(&claim.uid).ok_or("the driver gave no answer for the claim")?;
    assert_eq!(answer.error, "");
    Ok(answer.devices.iter().map(|device| device.cdi_device_ids.clone()).collect())
}

fn file(testbed: &Testbed, claim: &Claim, request: &str) -> PathBuf {
    metadata(testbed).join(&claim.uid).join(format!("{request}.json"))
}

fn metadata(testbed: &Testbed) -> PathBuf {
    testbed.node.path("run").join(DRIVER).join("metadata")
}

fn is_empty(testbed: &Testbed) -> bool {
    std::fs::read_dir(metadata(testbed)).is_ok_and(|mut entries| entries.next().is_none())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_reads_what_its_devices_are_and_nothing_of_other_requests() -> Result<()> {
    let Some(toolbox) = toolbox() else { return Ok(()) };
    let testbed = started("all").await?;
    let dir = tempfile::Builder::new()
        .prefix("aliquot")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir()?;
    let claim = claim(&testbed, "mine").await?;
    let devices = prepare(&testbed, &claim).await?;
    let (cdi, nodes) = (testbed.node.path("cdi"), testbed.node.path("dev"));
    let containerd = Containerd::start_over(toolbox, &dir.path().join("containerd"), &cdi, &nodes).await?;
    for runtime in Runtime::ALL {
        let specs = devices.iter().zip(["share", "whole"]).map(|(ids, name)| ContainerSpec {
            name: name.to_owned(),
            cdi_devices: ids.clone(),
            ..ContainerSpec::default()
        });
        let name = format!("pod-{}", runtime.name());
        let pod = PodSpec { name, runtime, containers: specs.collect(), ..PodSpec::default() };
        let pod = containerd.run(&pod).await?;
        let path = |request: &str| format!("{BELOW}/resourceclaims/mine/{request}/{DRIVER}-metadata.json");
        let shell = async |container: &str, line: &str| -> Result<String> {
            let output = pod.exec(container, &["sh", "-c", line]).await?;
            Ok(output.stdout + &output.stderr)
        };
        let told: Value = serde_json::from_str(&shell("share", &format!("cat {}", path("share"))).await?)?;
        assert_eq!(
            (&told["metadata"]["uid"], &told["requests"][0]["name"]),
            (&json!(claim.uid), &json!("share/small"))
        );
        let attributes = &told["requests"][0]["devices"][0]["attributes"];
        let gpu = &testbed.node.profile().gpus[0];
        assert_eq!(attributes["uuid"]["string"], json!(gpu.uuid));
        assert_eq!(attributes["resource.kubernetes.io/pciBusID"]["string"], "0000:07:00.0");
        assert_eq!(attributes["memoryBytes"]["int"], json!(8_u64 << 30));
        let told: Value = serde_json::from_str(&shell("whole", &format!("cat {}", path("whole"))).await?)?;
        assert_eq!(told["requests"][0]["devices"][0]["name"], WHOLE);
        assert!(shell("whole", &format!("cat {}", path("share"))).await?.contains("No such file"));
        assert!(shell("whole", &format!("echo x >> {}", path("whole"))).await?.contains("Read-only"));
        pod.remove().await?;
    }
    testbed.unprepare(&claim).await?.unwrap();
    assert!(is_empty(&testbed));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_made_of_a_template_is_told_by_the_name_that_its_pod_gives_it() -> Result<()> {
    let testbed = started("all").await?;
    apply(&testbed.client, &templates()).await?;
    let (pod, running) = testbed.run_pod(pod("a", &["whole"])).await?;
    let id = running.containers["main"].iter().find(|id| id.ends_with("_gpu")).unwrap();
    let spec: Value = serde_json::from_slice(&std::fs::read(&testbed.specs()?[0])?)?;
    let device =
        spec["devices"].as_array().unwrap().iter().find(|device| id.ends_with(device["name"].as_str().unwrap()));
    let mount = &device.unwrap()["containerEdits"]["mounts"][0];
    let expected = format!("{BELOW}/resourceclaimtemplates/c0/gpu/{DRIVER}-metadata.json");
    assert_eq!(mount["containerPath"], json!(expected));
    let told: Value = serde_json::from_slice(&std::fs::read(mount["hostPath"].as_str().unwrap())?)?;
    assert_eq!(told["podClaimName"], "c0");
    testbed.stop_pod(&pod).await?;
    assert!(is_empty(&testbed));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_file_is_written_anew_by_the_next_call_the_sweep_and_the_next_start() -> Result<()> {
    let mut testbed = started("all").await?;
    let claim = claim(&testbed, "mine").await?;
    let ids = prepare(&testbed, &claim).await?;
    let (path, other) = (file(&testbed, &claim, "share"), file(&testbed, &claim, "whole"));
    let (before, beside) = (std::fs::read(&path)?, std::fs::read(&other)?);
    let is_back = || std::fs::read(&path).is_ok_and(|bytes| bytes == before);
    std::fs::write(&path, &before[..before.len() / 2])?;
    assert_eq!(prepare(&testbed, &claim).await?, ids);
    assert!(is_back());
    std::fs::remove_file(&path)?;
    testbed.until("the sweep has put it back", is_back).await?;
    testbed.kill_driver()?;
    std::fs::remove_dir_all(metadata(&testbed))?;
    // A driver that is to tell nobody leaves alone what containers were promised.
    testbed.restart_driver(&environment("none")).await?;
    testbed.until("the start has put it back", is_back).await?;
    assert_eq!(prepare(&testbed, &claim).await?, ids);
    assert_eq!(std::fs::read(&other)?, beside);
    testbed.unprepare(&claim).await?.unwrap();
    assert!(is_empty(&testbed));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_record_stands_behind_is_swept_and_a_link_is_not_followed() -> Result<()> {
    let testbed = started("all").await?;
    let (below, precious) = (metadata(&testbed), testbed.node.path("precious"));
    std::fs::create_dir(&precious)?;
    std::fs::write(precious.join("gpu.json"), "precious")?;
    std::fs::create_dir(below.join("orphan"))?;
    std::fs::write(below.join("orphan/.gpu.json.tmp"), "{")?;
    std::os::unix::fs::symlink(&precious, below.join("link"))?;
    testbed.until("both are gone", || is_empty(&testbed)).await?;
    assert_eq!(std::fs::read(precious.join("gpu.json"))?, b"precious");
    let claim = claim(&testbed, "mine").await?;
    std::os::unix::fs::symlink(&precious, below.join(&claim.uid))?;
    prepare(&testbed, &claim).await?;
    assert!(!file(&testbed, &claim, "share").canonicalize()?.starts_with(&precious));
    testbed.unprepare(&claim).await?.unwrap();
    assert_eq!(std::fs::read_dir(&precious)?.count(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_virtual_machines_monitor_reads_the_gpus_place_and_other_containers_read_nothing() -> Result<()> {
    let mut testbed = Testbed::without_driver("a100x4", Server::builder()).await?;
    testbed.node.plug(Function::gpu("0000:c1:00.0", "vfio-pci", 12))?;
    testbed.node.open_group(12)?;
    testbed.start_driver(&environment("vfio"))?;
    testbed.ready().await?;
    testbed.until("the card is offered", || testbed.published().iter().any(|name| name.ends_with("-vfio"))).await?;
    let claim = testbed.allocated("vm", &[("vm", "gpu-0000-c1-00-vfio"), ("gpu", WHOLE)]).await?;
    let devices = prepare(&testbed, &claim).await?;
    let kind = format!("{DRIVER}/claim={}", claim.uid);
    assert_eq!(devices[0], [format!("{kind}-gpu-0000-c1-00-vfio"), format!("{kind}_vm")]);
    assert_eq!(devices[1].len(), 2, "the node's device and its own: {devices:?}");
    let spec: Value = serde_json::from_slice(&std::fs::read(&testbed.specs()?[0])?)?;
    // Kata's runtime-rs reads only nodes, so that there is nothing else in the device that it is given.
    let passed = spec["devices"]
        .as_array()
        .unwrap()
        .iter()
        .find(|device| devices[0][0].ends_with(device["name"].as_str().unwrap()));
    assert!(passed.unwrap()["containerEdits"].get("mounts").is_none());
    assert_eq!(spec["cdiVersion"], "0.5.0");
    let told: Value = serde_json::from_slice(&std::fs::read(file(&testbed, &claim, "vm"))?)?;
    let attributes = &told["requests"][0]["devices"][0]["attributes"];
    assert_eq!(attributes["resource.kubernetes.io/pciBusID"]["string"], "0000:c1:00.0");
    assert!(!file(&testbed, &claim, "gpu").exists());
    testbed.unprepare(&claim).await?.unwrap();
    assert!(is_empty(&testbed));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_told_who_did_not_ask_for_it() -> Result<()> {
    let testbed = Testbed::start("a100x4").await?;
    let claim = claim(&testbed, "mine").await?;
    let devices = prepare(&testbed, &claim).await?;
    assert!(devices.iter().all(|ids| ids.len() == 2), "{devices:?}");
    assert!(is_empty(&testbed));
    Ok(())
}
