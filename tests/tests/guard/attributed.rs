//! Whose a process is, and to what its memory is added.
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn two_shares_of_one_pod_add_up() -> Result<()> {
    let testbed = guarded("t4x1", "kill", "100ms").await?;
    let two = run(&testbed, "two", &["share", "share"]).await?;
    let claims = claims_of(&testbed, "two");
    let mut users = Users::of(&testbed);
    // More than one share has, less than both.
    let large = users.using(Some(&two), 2 * GI)?;
    testbed.until_metric(&line(&testbed, "used_bytes", &claims), Some(2 * GI)).await?;
    testbed.until_metric(&line(&testbed, "limit_bytes", &claims), Some(2 * LIMIT)).await?;
    looks(10).await;
    assert!(users.is_alive(large) && told(&testbed).is_empty());
    let small = users.using(Some(&two), LIMIT)?;
    let (_, note) = testbed.event("ShareMemoryKilled").await?;
    users.is_killed(large).await?;
    let both = format!("ResourceClaims default/{}, default/{} have together used", claims[0], claims[1]);
    assert!(note.contains(&both) && note.contains("3.5 GiB") && note.contains("3.0 GiB"), "{note}");
    assert!(users.is_alive(small));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_holds_a_share_for_is_counted_and_never_touched() -> Result<()> {
    let testbed = guarded("l40sx2", "kill", "100ms").await?;
    let hog = run(&testbed, "hog", &["share"]).await?;
    let alone = run(&testbed, "alone", &["whole"]).await?;
    let mut users = Users::of(&testbed);
    let gpu = testbed.node.profile().gpus.iter().position(|gpu| gpu.pci.starts_with("0000:17")).unwrap();
    let uuid = testbed.node.profile().gpus[gpu].uuid.clone();
    // One of the host, two of the pod with the other GPU whole, of which one uses this GPU too.
    let (host, whole, strays) = (users.start(None)?, users.start(Some(&alone))?, users.start(Some(&alone))?);
    users.uses(host, gpu, Some(40 * GI))?;
    users.uses(whole, 1 - gpu, Some(44 * GI))?;
    users.uses(strays, gpu, Some(30 * GI))?;
    users.uses(strays, 1 - gpu, Some(1))?;
    let unattributed = format!("aliquot_unattributed_memory_used_bytes{{uuid=\"{uuid}\"}}");
    testbed.until_metric(&unattributed, Some(70 * GI)).await?;
    let kills = users.start(Some(&hog))?;
    users.uses(kills, gpu, Some(20 * GI))?;
    users.is_killed(kills).await?;
    looks(10).await;
    assert!(users.is_alive(host) && users.is_alive(whole) && users.is_alive(strays));
    assert_eq!(told(&testbed), [("ShareMemoryKilled".to_owned(), "hog".to_owned())]);
    assert_eq!(testbed.metric(&done("refused")).await?, Some(0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_joins_a_claim_later_is_known_too() -> Result<()> {
    let testbed = guarded("t4x1", "kill", "100ms").await?;
    apply(&testbed.client, &[shared_claim()]).await?;
    let (first, _) = testbed.run_pod(pod_of_shared("first")).await?;
    let mut users = Users::of(&testbed);
    let modest = users.using(Some(&first), GI)?;
    testbed.until_metric(&line(&testbed, "used_bytes", &["shared".to_owned()]), Some(GI)).await?;
    let (late, _) = testbed.run_pod(pod_of_shared("late")).await?;
    // The smaller one of the two together that are over.
    let larger = users.using(Some(&late), GI + MI)?;
    users.is_killed(larger).await?;
    let (object, note) = testbed.event("ShareMemoryKilled").await?;
    assert!(object == "Pod late" && note.contains("default/shared") && note.contains("2.0 GiB"), "{object}: {note}");
    looks(10).await;
    assert!(users.is_alive(modest));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_that_nvml_cannot_tell_is_held_against_nobody() -> Result<()> {
    let testbed = guarded("t4x1", "kill", "50ms").await?;
    let pod = run(&testbed, "pod", &["share"]).await?;
    let mut users = Users::of(&testbed);
    let (unknown, known) = (users.start(Some(&pod))?, users.start(Some(&pod))?);
    users.uses(unknown, 0, None)?;
    users.uses(known, 0, Some(GI))?;
    testbed.until_metric(&line(&testbed, "used_bytes", &claims_of(&testbed, "pod")), Some(GI)).await?;
    users.uses(known, 0, Some(4 * GI))?;
    users.is_killed(known).await?;
    looks(10).await;
    assert!(users.is_alive(unknown));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_of_the_host_who_names_his_cgroup_like_a_pods_has_nobody_evicted() -> Result<()> {
    let testbed = guarded("t4x1", "evict", "50ms").await?;
    let victim = run(&testbed, "victim", &["share"]).await?;
    let uuid = &testbed.node.profile().gpus[0].uuid;
    let mut users = Users::of(&testbed);
    let modest = users.using(Some(&victim), GI)?;
    let pid = users.start(None)?;
    let cgroup = format!("0::/user.slice/user-1000.slice/user@1000.service/kubepods/pod{}/x\n", uid(&victim));
    std::fs::write(testbed.node.path("proc").join(pid.to_string()).join("cgroup"), cgroup)?;
    users.uses(pid, 0, Some(10 * GI))?;
    let unattributed = format!("aliquot_unattributed_memory_used_bytes{{uuid=\"{uuid}\"}}");
    testbed.until_metric(&unattributed, Some(10 * GI)).await?;
    looks(20).await;
    assert!(users.is_alive(modest) && told(&testbed).is_empty());
    assert!(testbed.api.peek("pods", "default", "victim").is_some());
    Ok(())
}
