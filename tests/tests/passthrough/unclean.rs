//! GPUs on which a virtual machine may have left something, since the kernel couldn't reset them after it.
use aliquot_tests::kernel::{Disorder, Holder, Kernel};
use rustix::io::Errno;

use super::*;

/// Each reading is another try.
const OFTEN: [(&str, &str); 2] = [("ALIQUOT_PREPARE_BUDGET", "500ms"), ("ALIQUOT_RESCAN_INTERVAL", "300ms")];
/// None comes by itself; who has a node open is seen, as by component vfio-dynamic.
const NEVER: [(&str, &str); 3] = [
    ("ALIQUOT_PREPARE_BUDGET", "500ms"),
    ("ALIQUOT_RESCAN_INTERVAL", "60m"),
    ("ALIQUOT_KEEP_CAPABILITIES", "sys_admin,kill,sys_ptrace"),
];

async fn with_kernel(settings: &[(&str, &str)]) -> Result<(Testbed, Kernel)> {
    let mut testbed = with_card("t4x1").await?;
    let kernel = Kernel::boot(&testbed.node, false)?;
    testbed.start_driver(settings)?;
    testbed.ready().await?;
    offered(&testbed, DEVICE).await?;
    Ok((testbed, kernel))
}

/// The values of the card's taints.
fn taints(testbed: &Testbed) -> Vec<String> {
    let card = testbed.devices().into_iter().find(|device| device.name == DEVICE);
    let taints = card.and_then(|card| card.taints).unwrap_or_default();
    taints.into_iter().filter_map(|taint| taint.value).collect()
}

fn resets(kernel: &Kernel) -> usize {
    kernel.writes().iter().filter(|write| **write == format!("{PLACE}/reset 1")).count()
}

async fn unclean(testbed: &Testbed, kernel: &Kernel) -> Result<()> {
    kernel.order(&format!("{PLACE}/reset"), Disorder::Refuse(Errno::IO));
    let claim = claim(testbed, "vm", None).await?;
    prepare(testbed, &claim).await?.unwrap();
    testbed.unprepare(&claim).await?.unwrap();
    testbed.until("it is tainted", || taints(testbed) == ["not-reset"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_cannot_be_reset_goes_to_nobody_until_it_can() -> Result<()> {
    let (mut testbed, kernel) = with_kernel(&NEVER).await?;
    unclean(&testbed, &kernel).await?;
    let is_told =
        |event: &Value| event["note"].as_str().is_some_and(|note| note.contains(PLACE) && note.contains("reset"));
    testbed.until("the node is told", || testbed.events("GPUUnhealthy").iter().any(is_told)).await?;
    let allocated_before = claim(&testbed, "next", None).await?;
    let error = prepare(&testbed, &allocated_before).await?.unwrap_err();
    assert!(error.contains("couldn't reset it after a virtual machine had it"), "{error}");
    // It is known over a restart, and the new process tries again.
    testbed.kill_driver()?;
    kernel.order(&format!("{PLACE}/reset"), Disorder::Refuse(Errno::IO));
    let before = resets(&kernel);
    testbed.restart_driver(&OFTEN).await?;
    testbed.until("it is tried again, twice", || resets(&kernel) >= before + 2).await?;
    testbed.until("it is well", || taints(&testbed).is_empty()).await?;
    testbed.until("the node is told", || !testbed.events("GPUHealthy").is_empty()).await?;
    prepare(&testbed, &allocated_before).await?.unwrap();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waited_for_it_does_not_get_it_either() -> Result<()> {
    let (testbed, kernel) =
        with_kernel(&[("ALIQUOT_PREPARE_BUDGET", "10s"), ("ALIQUOT_RESCAN_INTERVAL", "60m")]).await?;
    let (first, next) = (claim(&testbed, "vm", None).await?, claim(&testbed, "next", None).await?);
    prepare(&testbed, &first).await?.unwrap();
    kernel.order(&format!("{PLACE}/reset"), Disorder::Refuse(Errno::IO));
    let leaving = async {
        testbed.until("the next one waits", || testbed.log().contains("waiting for another claim")).await?;
        testbed.unprepare(&first).await
    };
    let (waited, left) = tokio::join!(prepare(&testbed, &next), leaving);
    left?.unwrap();
    let error = waited?.unwrap_err();
    assert!(error.contains("couldn't reset it after a virtual machine had it"), "{error}");
    assert_eq!((testbed.records()?.len(), testbed.specs()?.len()), (0, 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_a_machine_still_has_is_not_reset_under_it() -> Result<()> {
    let (testbed, kernel) = with_kernel(&NEVER).await?;
    let claim = claim(&testbed, "vm", None).await?;
    prepare(&testbed, &claim).await?.unwrap();
    let machine = Holder::of(&testbed.node, &format!("vfio/{GROUP}"))?;
    testbed.unprepare(&claim).await?.unwrap();
    assert_eq!(resets(&kernel), 0);
    drop(machine);
    prepare(&testbed, &claim).await?.unwrap();
    testbed.unprepare(&claim).await?.unwrap();
    assert_eq!((resets(&kernel), taints(&testbed).len()), (1, 0));
    Ok(())
}
