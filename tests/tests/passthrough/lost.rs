//! What becomes of a GPU that a virtual machine has when it is taken away under it, and how that is noticed.
use std::time::Duration;

use aliquot_tests::{
    skip::pci_function,
    testbed::{apply, documents, pods_and_others},
};
use k8s_openapi::api::resource::v1::Device;
use kubelet_api::health::v1alpha1::HealthStatus;

use super::*;

/// Nothing but what the kernel tells wakes the driver.
const SLOW: [(&str, &str); 2] = [("ALIQUOT_PREPARE_BUDGET", "500ms"), ("ALIQUOT_RESCAN_INTERVAL", "60m")];

/// The card as it is published.
fn card(testbed: &Testbed) -> Option<Device> {
    testbed.devices().into_iter().find(|device| device.name == DEVICE)
}

/// The effects of its taints.
fn effects(testbed: &Testbed) -> Vec<String> {
    let taints = card(testbed).and_then(|card| card.taints).unwrap_or_default();
    let ours = taints.into_iter().filter(|taint| taint.key == format!("{DRIVER}/unhealthy"));
    ours.map(|taint| format!("{} {}", taint.value.unwrap_or_default(), taint.effect)).collect()
}

/// Takes the card away, with the group's node, as a driver that is unbound does.
fn take(testbed: &Testbed) -> Result<()> {
    testbed.node.bind(PLACE, "")?;
    Ok(testbed.node.close_group(GROUP)?)
}

fn give_back(testbed: &Testbed) -> Result<()> {
    testbed.node.bind(PLACE, "vfio-pci")?;
    Ok(testbed.node.open_group(GROUP)?)
}

fn is_tainted(testbed: &Testbed) -> bool {
    effects(testbed) == ["vfio-gpu-lost NoSchedule"]
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_held_stays_published_with_a_taint_until_it_is_back_or_let_go() -> Result<()> {
    let testbed = started("t4x1").await?;
    let attributes = card(&testbed).unwrap().attributes;
    let claim = claim(&testbed, "vm", None).await?;
    let ids = prepare(&testbed, &claim).await?.unwrap();
    assert!(effects(&testbed).is_empty());
    take(&testbed)?;
    testbed.until("it is tainted", || is_tainted(&testbed)).await?;
    assert_eq!(card(&testbed).unwrap().attributes, attributes, "it is known as before");
    assert_eq!(prepare(&testbed, &claim).await?.unwrap(), ids, "what is prepared stays prepared");
    give_back(&testbed)?;
    testbed.until("it is well", || card(&testbed).is_some() && effects(&testbed).is_empty()).await?;
    take(&testbed)?;
    testbed.until("it is tainted again", || is_tainted(&testbed)).await?;
    testbed.unprepare(&claim).await?.unwrap();
    testbed.until("nobody holds it, and it is withdrawn", || card(&testbed).is_none()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_is_so_over_a_restart_of_the_driver_also_where_the_kernel_has_forgotten_it() -> Result<()> {
    let mut testbed = started("t4x1").await?;
    let claim = claim(&testbed, "vm", None).await?;
    prepare(&testbed, &claim).await?.unwrap();
    testbed.kill_driver()?;
    testbed.node.unplug(PLACE)?;
    testbed.node.close_group(GROUP)?;
    testbed.restart_driver(&[("ALIQUOT_EVICT_FROM_ILL_GPUS", "fatal")]).await?;
    let evicting = || effects(&testbed) == ["vfio-gpu-lost NoExecute"];
    testbed.until("pods are to be evicted from it", evicting).await?;
    let attributes = card(&testbed).unwrap().attributes.unwrap();
    assert_eq!(attributes["resource.kubernetes.io/pciBusID"].string.as_deref(), Some(PLACE));
    assert_eq!((attributes["iommuGroup"].int, attributes["type"].string.as_deref()), (Some(12), Some("vfio")));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kubelet_and_the_pod_are_told_why() -> Result<()> {
    let testbed = started("t4x1").await?;
    let objects = documents(include_str!("../../../deploy/examples/vfio.yaml"))?;
    let (pods, others) = pods_and_others(objects);
    apply(&testbed.client, &others).await?;
    let (pod, _) = testbed.run_pod(pods[0].clone()).await?;
    testbed.node.bind(PLACE, "nvidia")?;
    testbed.node.close_group(GROUP)?;
    let is_users = |event: &Value| {
        event["note"].as_str().is_some_and(|note| note.contains("no vfio driver") && note.contains("delete the pod"))
    };
    testbed.until("the pod is told", || testbed.events("VfioGPULost").iter().any(is_users)).await?;
    let health = || testbed.kubelet.health(DRIVER, &format!("{DRIVER}/{NODE}"), DEVICE);
    testbed.until("the kubelet is told", || health().status == HealthStatus::Unhealthy).await?;
    assert!(health().message.contains("no vfio driver"), "{}", health().message);
    let taken = ["gpu-0000-c1-00", "gpu-0000-c1-00-shared"];
    assert!(!testbed.published().iter().any(|name| taken.contains(&name.as_str())), "nobody else gets it meanwhile");
    give_back(&testbed)?;
    testbed.until("it is well", || health().status == HealthStatus::Healthy).await?;
    testbed.stop_pod(&pod).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_has_changed_is_not_what_the_machine_was_given() -> Result<()> {
    let testbed = started("t4x1").await?;
    let claim = claim(&testbed, "vm", None).await?;
    prepare(&testbed, &claim).await?.unwrap();
    testbed.node.plug(Function::gpu("0000:c2:00.0", "vfio-pci", GROUP))?;
    testbed.node.close_group(GROUP)?;
    testbed.node.open_group(GROUP)?;
    testbed.until("it is tainted", || is_tainted(&testbed)).await?;
    assert!(
        testbed.log().contains("its IOMMU group was 12 with 0000:c1:00.0, and is 12 with 0000:c1:00.0, 0000:c2:00.0")
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_leaves_a_function_is_noticed_by_what_the_kernel_tells_and_by_no_file() -> Result<()> {
    let Some(uevent) = pci_function() else { return Ok(()) };
    let mut testbed = with_card("t4x1").await?;
    testbed.start_driver(&SLOW)?;
    testbed.ready().await?;
    offered(&testbed, DEVICE).await?;
    let claim = claim(&testbed, "vm", None).await?;
    prepare(&testbed, &claim).await?.unwrap();
    // Time for what the start has made in /dev.
    tokio::time::sleep(Duration::from_secs(1)).await;
    testbed.node.bind(PLACE, "")?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(effects(&testbed).is_empty(), "nobody has said so");
    std::fs::write(uevent, "unbind")?;
    testbed.until("it is tainted", || is_tainted(&testbed)).await
}
