//! Claims over their share that are only observed, and what nobody looks at.
use std::{fs::File, time::Instant};

use aliquot_tests::testbed::DRIVER;
use fake_nvml::Control;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_excess_is_told_once_with_both_figures_and_its_claim() -> Result<()> {
    let testbed = guarded("t4x1", "observe", "100ms").await?;
    is_published(&testbed, "gpu-0000-00-1e-shared", "memoryEnforcement", "guard").await?;
    let hog = run(&testbed, "hog", &["share"]).await?;
    let claims = claims_of(&testbed, "hog");
    let mut users = Users::of(&testbed);
    let pid = users.using(Some(&hog), GI)?;
    testbed.until_metric(&line(&testbed, "used_bytes", &claims), Some(GI)).await?;
    testbed.until_metric(&line(&testbed, "limit_bytes", &claims), Some(LIMIT)).await?;
    testbed.until_metric(&line(&testbed, "exceeded", &claims), Some(0)).await?;
    users.uses(pid, 0, Some(4 * GI))?;
    let (object, note) = testbed.event("ShareMemoryExceeded").await?;
    assert_eq!(object, "Pod hog");
    let uuid = &testbed.node.profile().gpus[0].uuid;
    for words in [&format!("ResourceClaim default/{} has used 4.0 GiB", claims[0]), "its share is 1.5 GiB", uuid] {
        assert!(note.contains(words), "{words}: {note}");
    }
    let event = testbed.events("ShareMemoryExceeded").remove(0);
    assert_eq!((&event["type"], &event["regarding"]["uid"]), (&json!("Warning"), &json!(uid(&hog))));
    assert_eq!((&event["related"]["kind"], &event["related"]["name"]), (&json!("ResourceClaim"), &json!(claims[0])));
    testbed.until_metric(&line(&testbed, "exceeded", &claims), Some(1)).await?;
    testbed.until_metric(&line(&testbed, "used_bytes", &claims), Some(4 * GI)).await?;
    looks(20).await;
    assert_eq!(testbed.metric(&done("observed")).await?, Some(1), "not again at every look");
    assert!(testbed.events("ShareMemoryExceeded")[0].get("series").is_none_or(Value::is_null));
    users.uses(pid, 0, Some(LIMIT))?;
    testbed.until_metric(&line(&testbed, "exceeded", &claims), Some(0)).await?;
    assert!(testbed.log().contains("back within their share"), "{}", testbed.log());
    assert!(users.is_alive(pid) && told(&testbed).len() == 1);
    testbed.stop_pod(&hog).await?;
    testbed.until_metric(&line(&testbed, "used_bytes", &claims), None).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_excess_counts_from_its_beginning_and_a_short_one_not_at_all() -> Result<()> {
    let grace = Duration::from_secs(2);
    let testbed = guarded("t4x1", "observe", "2s").await?;
    let hog = run(&testbed, "hog", &["share"]).await?;
    let exceeded = line(&testbed, "exceeded", &claims_of(&testbed, "hog"));
    let mut users = Users::of(&testbed);
    let pid = users.using(Some(&hog), 4 * GI)?;
    testbed.until_metric(&exceeded, Some(1)).await?;
    users.uses(pid, 0, Some(GI))?;
    testbed.until_metric(&exceeded, Some(0)).await?;
    assert!(told(&testbed).is_empty());
    let begun = Instant::now();
    users.uses(pid, 0, Some(4 * GI))?;
    testbed.event("ShareMemoryExceeded").await?;
    assert!(begun.elapsed() >= grace, "{:?}", begun.elapsed());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_is_not_known_what_claims_hold_those_that_are_known_stay_guarded() -> Result<()> {
    let testbed = guarded("t4x1", "observe", "50ms").await?;
    let hog = run(&testbed, "hog", &["share"]).await?;
    let used = line(&testbed, "used_bytes", &claims_of(&testbed, "hog"));
    let mut users = Users::of(&testbed);
    let pid = users.using(Some(&hog), 4 * GI)?;
    testbed.until_metric(&used, Some(4 * GI)).await?;
    // As by an instance that is stopped.
    let lock = File::open(testbed.node.path("run").join(DRIVER).join("claims/lock"))?;
    lock.lock()?;
    replace(&testbed, policy(&guard("kill", "50ms")))?;
    let words = "what claims hold can't be read; those that are known stay guarded";
    testbed.until("it is told", || testbed.log().contains(words)).await?;
    users.uses(pid, 0, Some(5 * GI))?;
    testbed.until_metric(&used, Some(5 * GI)).await?;
    lock.unlock()?;
    users.is_killed(pid).await?;
    assert_eq!(testbed.log().matches(words).count(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_guard_is_off_it_is_said_and_nobody_looks() -> Result<()> {
    let testbed = guarded("t4x1", "off", "50ms").await?;
    for (name, value) in [("memoryEnforcement", "none"), ("memoryGuard", "off")] {
        is_published(&testbed, "gpu-0000-00-1e-shared", name, value).await?;
    }
    let hog = run(&testbed, "hog", &["share"]).await?;
    let mut users = Users::of(&testbed);
    let pid = users.using(Some(&hog), 14 * GI)?;
    looks(20).await;
    assert!(users.is_alive(pid) && told(&testbed).is_empty());
    assert_eq!(testbed.metric(&line(&testbed, "used_bytes", &claims_of(&testbed, "hog"))).await?, None);
    // Once it is on, it is the same process that is noticed.
    replace(&testbed, policy(&guard("observe", "50ms")))?;
    testbed.event("ShareMemoryExceeded").await?;
    is_published(&testbed, "gpu-0000-00-1e-shared", "memoryEnforcement", "guard").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_that_does_not_tell_what_processes_use_is_not_said_to_be_guarded() -> Result<()> {
    let mut testbed = prepared("l40sx2", &guard("kill", "50ms")).await?;
    let mute = testbed.node.profile().gpus.iter().position(|gpu| gpu.pci.starts_with("0000:17")).unwrap();
    let uuid = testbed.node.profile().gpus[mute].uuid.clone();
    // NVML_ERROR_NOT_SUPPORTED.
    let errors = [(uuid, [("nvmlDeviceGetComputeRunningProcesses_v3".to_owned(), 3)].into())];
    testbed.node.control(&Control { errors: errors.into(), ..Control::default() })?;
    restart(&mut testbed).await?;
    testbed.ready().await?;
    for (device, value) in [("gpu-0000-17-00-shared", "none"), ("gpu-0000-ca-00-shared", "guard")] {
        is_published(&testbed, device, "memoryEnforcement", value).await?;
    }
    // A claim can demand one that is.
    let demand = "device.attributes['gpu.aliquot.dev'].memoryEnforcement == 'guard'";
    let exactly = json!({"deviceClassName": "share.gpu.aliquot.dev", "selectors": [{"cel": {"expression": demand}}]});
    apply(&testbed.client, &[template("guarded", &exactly)]).await?;
    let (_, running) = testbed.run_pod(pod("careful", &["guarded"])).await?;
    let node = format!("/dev/nvidia{}", testbed.node.profile().gpus[1 - mute].minor);
    assert_eq!(testbed.nodes_of(&running.containers["main"])?, [node]);
    Ok(())
}
