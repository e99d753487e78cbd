//! Each way in which a claim can be gone while the kubelet doesn't say so.
use super::*;

/// Prepares a claim, makes it stale, and looks at what becomes of it.
async fn becomes(testbed: &Testbed, name: &str, reason: &str, change: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
    let claim = forgotten(testbed, name, ONE).await?;
    rounds(testbed, 3).await?;
    let begun = Instant::now();
    change().await?;
    swept(testbed).await?;
    assert!(begun.elapsed() >= GRACE, "{reason}: it went after {:?}", begun.elapsed());
    testbed.until_metric(&removed(reason), Some(1)).await?;
    let told = || testbed.events("StaleClaimRemoved").into_iter();
    let on_node =
        |event: &Value| event["regarding"]["kind"] == "Node" && event["note"].to_string().contains(&claim.uid);
    testbed.until("the Node's event tells of it", || told().any(|event| on_node(&event))).await?;
    let note = told().find(on_node).unwrap()["note"].to_string();
    assert!(note.contains(&format!("default/{name}")) && note.contains(ONE), "{note}");
    // Its device is free.
    let next = testbed.allocated(&format!("{name}-next"), &[("gpu", ONE)]).await?;
    testbed.prepare(&next).await?.unwrap();
    testbed.unprepare(&next).await?.unwrap();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_gone_is_removed_after_the_grace_and_not_before() -> Result<()> {
    let testbed = started(&[]).await?;
    let bed = &testbed;
    becomes(bed, "gone", "gone", async || delete(bed, "gone").await).await?;
    becomes(bed, "again", "other_uid", async || {
        delete(bed, "again").await?;
        bed.allocated("again", &[("gpu", ONE)]).await.map(drop)
    })
    .await?;
    becomes(bed, "freed", "not_allocated", async || allocate(bed, "freed", Value::Null).await).await?;
    becomes(bed, "moved", "elsewhere", async || allocate(bed, "moved", on("node2", ONE)).await).await?;
    becomes(bed, "changed", "other_devices", async || allocate(bed, "changed", on(NODE, TWO)).await).await?;
    // Claims that are still there are told of it themselves.
    let told = bed.events("StaleClaimRemoved");
    let mut names: Vec<_> = told
        .iter()
        .filter(|event| event["regarding"]["kind"] == "ResourceClaim")
        .filter_map(|event| event["regarding"]["name"].as_str())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["changed", "freed", "moved"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepare_that_was_killed_and_never_repeated_goes_too() -> Result<()> {
    let mut testbed = started(&[]).await?;
    let claim = testbed.allocated("half", &[("gpu", ONE)]).await?;
    testbed.restart_driver(&[&QUICK[..], &[("ALIQUOT_FAULT", "reserved=kill")]].concat()).await?;
    assert!(testbed.prepare(&claim).await.is_err(), "the driver is to die in the call");
    testbed.driver_ended().await?;
    delete(&testbed, "half").await?;
    testbed.restart_driver(&QUICK).await?;
    swept(&testbed).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_slice_goes_with_the_claim_that_asked_for_it() -> Result<()> {
    let testbed = started(&[]).await?;
    let result = aliquot_tests::objects::share("gpu", &format!("{ONE}-shared"), 1, 8);
    let parameters = json!({"apiVersion": "gpu.aliquot.dev/v1alpha1", "kind": "ShareConfig",
        "sharing": {"strategy": "TimeSlicing", "timeSlicingConfig": {"interval": "Short"}}});
    let config = json!({"source": "FromClaim", "opaque": {"driver": DRIVER, "parameters": parameters}});
    let claim = testbed.allocated_as("sliced", json!({"devices": {"results": [result], "config": [config]}})).await?;
    testbed.prepare(&claim).await?.unwrap();
    let lengths = || testbed.node.time_slices().into_iter().map(|(_, length)| length).collect::<Vec<_>>();
    assert_eq!(lengths(), [1]);
    delete(&testbed, "sliced").await?;
    swept(&testbed).await?;
    assert_eq!(lengths(), [1, 0]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_that_lost_its_state_leaves_nothing_behind_for_good() -> Result<()> {
    let testbed = started(&[]).await?;
    let templates = aliquot_tests::objects::templates();
    aliquot_tests::testbed::apply(&testbed.client, &templates).await?;
    let (pod, _) = testbed.run_pod(aliquot_tests::objects::pod("lost", &["whole"])).await?;
    rounds(&testbed, ENOUGH).await?;
    assert_eq!(testbed.records()?.len(), 1);
    testbed.kubelet.force_delete(pod.metadata.uid.as_deref().unwrap());
    testbed.kubelet.lose_state()?;
    testbed.scheduler.release(&pod).await?;
    swept(&testbed).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_that_is_broken_off_at_any_step_is_ended_by_the_next_driver() -> Result<()> {
    let mut testbed = started(&[]).await?;
    for step in ["unprepare-begun", "spec-removed", "change-announced", "record-removed", "released"] {
        let claim = testbed.allocated(step, &[("gpu", ONE)]).await?;
        testbed.restart_driver(&[&QUICK[..], &[("ALIQUOT_SWEEP", "report")]].concat()).await?;
        testbed.prepare(&claim).await?.unwrap();
        delete(&testbed, step).await?;
        testbed.kill_driver()?;
        testbed.start_driver(&[&QUICK[..], &[("ALIQUOT_FAULT", &format!("{step}=kill"))]].concat())?;
        testbed.driver_ended().await?;
        testbed.restart_driver(&QUICK).await?;
        swept(&testbed).await?;
        let next = testbed.allocated(&format!("{step}-next"), &[("gpu", ONE)]).await?;
        testbed.prepare(&next).await?.unwrap();
        testbed.unprepare(&next).await?.unwrap();
    }
    Ok(())
}
