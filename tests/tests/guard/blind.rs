//! What the guard says and publishes where it can't see.
use fake_nvml::Control;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_without_the_hosts_processes_promises_no_guard_and_says_why() -> Result<()> {
    let mut testbed = prepared("t4x1", &guard("kill", "50ms")).await?;
    testbed.node.show_self(1)?;
    restart(&mut testbed).await?;
    testbed.ready().await?;
    is_published(&testbed, "gpu-0000-00-1e-shared", "memoryEnforcement", "none").await?;
    let (object, note) = testbed.event("GuardBlind").await?;
    assert!(object == "Node node1" && note.contains("hostPID: true"), "{object}: {note}");
    testbed.until_metric("aliquot_guard_blind", Some(1)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_guard_is_wanted_it_is_no_trouble_that_there_is_none() -> Result<()> {
    let mut testbed = prepared("t4x1", &guard("off", "50ms")).await?;
    testbed.node.show_self(1)?;
    restart(&mut testbed).await?;
    testbed.ready().await?;
    testbed.until_metric("aliquot_guard_blind", Some(1)).await?;
    looks(10).await;
    assert!(testbed.events("GuardBlind").is_empty());
    // Once it is wanted, it is said.
    replace(&testbed, policy(&guard("observe", "50ms")))?;
    testbed.event("GuardBlind").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_procfs_does_not_know_are_counted_and_the_guard_says_that_it_is_blind() -> Result<()> {
    let testbed = guarded("t4x1", "kill", "50ms").await?;
    run(&testbed, "pod", &["share"]).await?;
    let mut users = Users::of(&testbed);
    let hidden = users.start(None)?;
    std::fs::remove_dir_all(testbed.node.path("proc").join(hidden.to_string()))?;
    users.uses(hidden, 0, Some(9 * GI))?;
    let uuid = &testbed.node.profile().gpus[0].uuid;
    let unattributed = format!("aliquot_unattributed_memory_used_bytes{{uuid=\"{uuid}\"}}");
    testbed.until_metric(&unattributed, Some(9 * GI)).await?;
    testbed.event("GuardBlind").await?;
    testbed.until_metric("aliquot_guard_blind", Some(1)).await?;
    testbed.node.place(hidden, None)?;
    testbed.event("GuardSees").await?;
    testbed.until_metric("aliquot_guard_blind", Some(0)).await?;
    testbed.until_metric(&unattributed, Some(9 * GI)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_whose_processes_cannot_be_listed_is_seen_in_the_metrics() -> Result<()> {
    let testbed = guarded("t4x1", "kill", "50ms").await?;
    run(&testbed, "pod", &["share"]).await?;
    let uuid = &testbed.node.profile().gpus[0].uuid;
    let readable = format!("aliquot_guard_readable{{uuid=\"{uuid}\"}}");
    testbed.until_metric(&readable, Some(1)).await?;
    // NVML_ERROR_UNKNOWN.
    let errors = [(uuid.clone(), [("nvmlDeviceGetComputeRunningProcesses_v3".to_owned(), 999)].into())];
    testbed.node.control(&Control { errors: errors.into(), ..Control::default() })?;
    testbed.until_metric(&readable, Some(0)).await?;
    testbed.until_metric(&line(&testbed, "used_bytes", &claims_of(&testbed, "pod")), None).await?;
    testbed.node.control(&Control::default())?;
    testbed.until_metric(&readable, Some(1)).await
}
