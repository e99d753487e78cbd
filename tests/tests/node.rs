//! What a node publishes: GPUs that come, go and fail, and an API server that forgets, refuses and stumbles.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
use std::time::{Duration, Instant};

use aliquot_tests::testbed::{Result, Testbed};
use fake_apiserver::{Fault, Server, Trouble};
use fake_nvml::{Control, Profile};
use k8s_openapi::api::resource::v1::ResourceSlice;
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};

/// Readings in quick succession, so that a suite need not wait for half a minute.
const QUICK: (&str, &str) = ("ALIQUOT_RESCAN_INTERVAL", "100ms");

async fn quick(profile: &str) -> Result<Testbed> {
    let mut testbed = Testbed::without_driver(profile, Server::builder()).await?;
    testbed.start_driver(&[QUICK])?;
    testbed.ready().await?;
    Ok(testbed)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_profile_is_published_with_its_memory_and_place() -> Result<()> {
    for name in Profile::NAMES {
        let testbed = Testbed::start(name).await?;
        let profile = Profile::named(name).unwrap();
        let well = profile.gpus.iter().filter(|gpu| gpu.errors.is_empty()).count();
        testbed.until("all GPUs are published", || testbed.whole().len() == well).await?;
        for device in testbed.devices() {
            let attributes = device.attributes.unwrap();
            let pci = attributes["resource.kubernetes.io/pciBusID"].string.clone().unwrap();
            let gpu = profile.gpus.iter().find(|gpu| gpu.pci == pci).unwrap();
            assert_eq!(attributes["productName"].string.as_ref(), Some(&gpu.name));
            assert_eq!(attributes["resource.kubernetes.io/pcieRoot"].string.as_ref(), Some(&gpu.pcie_root));
            assert_eq!(
                attributes.get("resource.kubernetes.io/numaNode").and_then(|numa| numa.int),
                match gpu.numa_node {
                    -1 => None,
                    node => Some(node.into()),
                }
            );
            let memory = &device.capacity.unwrap()["memory"].value.0;
            assert_eq!(*memory, aliquot_memory(gpu.memory), "{name}");
        }
    }
    Ok(())
}

fn aliquot_memory(bytes: u64) -> String {
    if bytes.is_multiple_of(1 << 30) { format!("{}Gi", bytes >> 30) } else { format!("{}Mi", bytes >> 20) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_that_fails_is_left_out_and_named_on_the_node() -> Result<()> {
    let testbed = Testbed::start("failing").await?;
    assert_eq!(testbed.whole().len(), 3);
    testbed.until("an event tells of the GPU", || !testbed.api.peek_all("events").is_empty()).await?;
    let event = testbed.api.peek_all("events").remove(0);
    assert_eq!((event["regarding"]["kind"].as_str(), event["reason"].as_str()), (Some("Node"), Some("GPUUnhealthy")));
    assert!(event["note"].as_str().unwrap().contains("0000:52:00.0"), "{event}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_that_is_removed_is_unpublished_and_comes_back() -> Result<()> {
    let testbed = quick("h100x8").await?;
    let uuid = testbed.node.profile().gpus[2].uuid.clone();
    testbed.node.control(&Control { removed: vec![uuid], ..Control::default() })?;
    testbed.until("seven GPUs are left", || testbed.whole().len() == 7).await?;
    assert!(!testbed.whole().contains(&"gpu-0000-52-00".to_owned()));
    testbed.node.control(&Control::default())?;
    testbed.until("it is back", || testbed.whole().len() == 8).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_that_hangs_takes_neither_the_others_nor_claims_with_it() -> Result<()> {
    let mut testbed = Testbed::without_driver("h100x8", Server::builder()).await?;
    testbed.start_driver(&[QUICK, ("ALIQUOT_NVML_DEADLINE", "300ms")])?;
    testbed.ready().await?;
    testbed.until("all are published", || testbed.whole().len() == 8).await?;
    let hang = [("nvmlDeviceGetUUID".to_owned(), 3000)].into();
    testbed.node.control(&Control { hang, ..Control::default() })?;
    testbed.until("the hanging GPU is named", || testbed.log().contains("doesn't answer")).await?;
    testbed.until("only the hanging GPU is taken back", || testbed.whole().len() == 7).await?;
    let begun = Instant::now();
    let claim = testbed.allocated("claim", &[("gpu", "gpu-0000-df-00")]).await?;
    testbed.prepare(&claim).await?.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    testbed.node.control(&Control::default())?;
    testbed.until("all are back", || testbed.whole().len() == 8).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_is_installed_later_is_found_without_a_restart() -> Result<()> {
    let mut testbed = Testbed::without_driver("h100x8", Server::builder()).await?;
    let (installed, away) = (testbed.node.path("driver"), testbed.node.path("away"));
    std::fs::rename(&installed, &away)?;
    testbed.start_driver(&[])?;
    testbed.ready().await?;
    assert!(testbed.whole().is_empty(), "an empty pool says that the driver is here and has nothing");
    testbed.until("an event says why", || !testbed.api.peek_all("events").is_empty()).await?;
    let event = testbed.api.peek_all("events").remove(0);
    let note = event["note"].as_str().unwrap();
    assert!(
        event["reason"] == "GPUsUnavailable" && note.contains("--driver-root") && note.contains("libnvidia-ml.so.1")
    );
    std::fs::rename(&away, &installed)?;
    testbed.until("the GPUs are published", || testbed.whole().len() == 8).await
}

#[tokio::test(flavor = "multi_thread")]
async fn slices_that_are_wiped_come_back_and_at_rest_nothing_is_written() -> Result<()> {
    let testbed = quick("h100x8").await?;
    testbed.until("all are published", || testbed.whole().len() == 8).await?;
    let before = testbed.api.writes();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(testbed.api.writes(), before, "{:?}", testbed.api.requests());
    let slices: Api<ResourceSlice> = Api::all(testbed.client.clone());
    slices.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
    testbed.until("they are back", || testbed.whole().len() == 8).await?;
    assert_eq!(testbed.api.writes(), before + 3, "one deletion and two slices: {:?}", testbed.api.requests());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn slices_stay_when_the_driver_ends_and_a_restart_writes_nothing() -> Result<()> {
    let mut testbed = quick("h100x8").await?;
    let registered = |testbed: &Testbed| testbed.log().matches("registered with the kubelet").count();
    testbed.until("all are published", || testbed.whole().len() == 8 && registered(&testbed) == 1).await?;
    assert!(testbed.stop_driver()?.success());
    let writes = testbed.api.writes();
    assert_eq!(testbed.whole().len(), 8);
    testbed.start_driver(&[QUICK])?;
    testbed.until("it serves", || registered(&testbed) == 2).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(testbed.api.writes(), writes, "{:?}", testbed.api.requests());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_is_down_at_the_start_is_waited_for() -> Result<()> {
    let mut testbed = Testbed::without_driver("h100x8", Server::builder()).await?;
    for resource in ["resourceslices", "nodes"] {
        let trouble = Trouble::Error(503, None);
        testbed.api.inject(Fault { verb: String::new(), resource: resource.into(), times: 3, trouble });
    }
    testbed.start_driver(&[])?;
    testbed.until("the GPUs are published", || testbed.whole().len() == 8).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_breaks_or_is_too_old_is_begun_anew() -> Result<()> {
    let testbed = quick("h100x8").await?;
    testbed.until("all are published", || testbed.whole().len() == 8).await?;
    let slices: Api<ResourceSlice> = Api::all(testbed.client.clone());
    for _ in 0..2 {
        testbed.api.expire_watches();
        slices.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
        testbed.until("they are back", || testbed.whole().len() == 8).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_serve_side_by_side_during_a_rolling_update() -> Result<()> {
    let mut testbed = Testbed::without_driver("h100x8", Server::builder()).await?;
    testbed.start_driver(&[("POD_UID", "11111111-aaaa")])?;
    testbed.ready().await?;
    let claim = testbed.allocated("claim", &[("gpu", "gpu-0000-1b-00")]).await?;
    testbed.prepare(&claim).await?.unwrap();
    let mut new = testbed.another_driver(&[("POD_UID", "22222222-bbbb")])?;
    testbed.until("both are registered", || testbed.log().matches("registered with the kubelet").count() == 2).await?;
    // The kubelet now asks the new one: it knows what the old one has prepared, and that the device is taken.
    testbed.unprepare(&claim).await?.unwrap();
    assert!(testbed.records()?.is_empty() && testbed.specs()?.is_empty());
    let next = testbed.allocated("next", &[("gpu", "gpu-0000-1b-00")]).await?;
    testbed.prepare(&next).await?.unwrap();
    assert!(testbed.stop_driver()?.success());
    testbed.unprepare(&next).await?.unwrap();
    aliquot_tests::testbed::end(&new)?;
    assert!(new.wait()?.success());
    Ok(())
}
