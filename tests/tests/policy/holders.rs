//! A policy that changes while claims hold GPUs: nobody gets what another one has, and the new offer comes when they go.
use fake_kubelet::allocator::{ScheduleError, Unallocatable};
use std::collections::BTreeSet;

use super::*;

/// A node under a policy, with the templates `whole` and `share`, and `shares` which asks for a number of them.
async fn with_templates(rules: &str, shares: u64) -> Result<Testbed> {
    let testbed = under("t4x1", rules).await?;
    apply(&testbed.client, &templates()).await?;
    let capacity = serde_json::json!({"requests": {"shares": shares.to_string(), "memory": "1Gi"}});
    let exactly = serde_json::json!({"deviceClassName": "share.gpu.aliquot.dev", "capacity": capacity});
    apply(&testbed.client, &[template("shares", &exactly)]).await?;
    Ok(testbed)
}

/// No scheduler finds room for a claim of this template.
async fn has_no_room_for(testbed: &Testbed, template: &str) -> Result<()> {
    let pod = testbed.create_pod(pod("no-room", &[template])).await?;
    let refused = testbed.scheduler.schedule(&pod).await;
    assert!(
        matches!(refused, Err(ScheduleError::Unallocatable { source: Unallocatable::NoDevices(_), .. })),
        "{template}: {refused:?}"
    );
    testbed.scheduler.release(&pod).await?;
    kube::Api::<k8s_openapi::api::core::v1::Pod>::namespaced(testbed.client.clone(), "default")
        .delete("no-room", &kube::api::DeleteParams::default())
        .await?;
    Ok(())
}

/// In none of the versions from `since` on could a scheduler see anything but these devices of the GPU.
fn nothing_else_was_published(testbed: &Testbed, since: usize, devices: &[&str]) -> Result<()> {
    let may: BTreeSet<String> = devices.iter().map(|name| (*name).to_owned()).collect();
    for seen in testbed.ever_published()?.iter().skip(since) {
        assert!(seen.is_subset(&may), "{seen:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_that_is_held_whole_becomes_shared_when_its_holder_has_left() -> Result<()> {
    for first in ["[{offer: [whole]}]", "[]"] {
        let testbed = with_templates(first, 1).await?;
        let (holder, _) = testbed.run_pod(pod("holder", &["whole"])).await?;
        let since = testbed.ever_published()?.len();
        replace(&testbed, policy("[{offer: [shares], shares: {count: 2}}]"))?;
        testbed.event("PolicyInForce").await?;
        published(&testbed, &LEAVING).await?;
        for template in ["share", "whole"] {
            has_no_room_for(&testbed, template).await?;
        }
        if first != "[]" {
            nothing_else_was_published(&testbed, since, &WHOLE)?;
        }
        testbed.stop_pod(&holder).await?;
        published(&testbed, &SHARES).await?;
        assert_eq!(shares_of(&testbed, T4_SHARE).as_deref(), Some("2"));
        testbed.run_pod(pod("next", &["share"])).await?;
        nothing_else_was_published(&testbed, since, &BOTH)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_that_is_held_in_shares_becomes_whole_when_the_last_has_left() -> Result<()> {
    let testbed = with_templates("[{offer: [shares]}]", 3).await?;
    let (one, _) = testbed.run_pod(pod("one", &["share"])).await?;
    let (three, running) = testbed.run_pod(pod("three", &["shares"])).await?;
    let since = testbed.ever_published()?.len();
    replace(&testbed, policy("[{offer: [whole]}]"))?;
    published(&testbed, &LEAVING).await?;
    has_no_room_for(&testbed, "whole").await?;
    has_no_room_for(&testbed, "share").await?;
    testbed.stop_pod(&one).await?;
    has_no_room_for(&testbed, "share").await?;
    assert_eq!(testbed.nodes_of(&running.containers["main"])?, ["/dev/nvidia0"], "who is there stays");
    assert_eq!(testbed.published(), LEAVING);
    nothing_else_was_published(&testbed, since, &SHARES)?;
    testbed.stop_pod(&three).await?;
    published(&testbed, &WHOLE).await?;
    testbed.run_pod(pod("next", &["whole"])).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_changes_while_the_driver_is_down_waits_for_the_holders_too() -> Result<()> {
    let mut testbed = with_templates("[{offer: [whole]}]", 1).await?;
    let (holder, _) = testbed.run_pod(pod("holder", &["whole"])).await?;
    testbed.kill_driver()?;
    let since = testbed.ever_published()?.len();
    replace(&testbed, policy("[{offer: [shares]}]"))?;
    restart(&mut testbed).await?;
    testbed.until_metric("aliquot_policy_in_force", Some(1)).await?;
    testbed.kubelet.wait_registered(aliquot_tests::testbed::DRIVER).await?;
    has_no_room_for(&testbed, "share").await?;
    nothing_else_was_published(&testbed, since, &WHOLE)?;
    testbed.stop_pod(&holder).await?;
    published(&testbed, &SHARES).await
}

/// A claim of several pods, whose device is in no slice any more: neither a scheduler nor the kubelet needs it there.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_holds_what_is_no_longer_offered_serves_more_pods_and_a_driver_that_starts_again() -> Result<()> {
    let mut testbed = under("t4x1", "[{offer: [whole]}]").await?;
    let request = serde_json::json!({"name": "gpu", "exactly": {"deviceClassName": "gpu.aliquot.dev"}});
    let claim = serde_json::json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
        "metadata": {"name": "shared"}, "spec": {"devices": {"requests": [request]}}});
    apply(&testbed.client, &[claim]).await?;
    let user = |name: &str| {
        let mut pod = pod(name, &[""]);
        pod["spec"]["resourceClaims"] = serde_json::json!([{"name": "c0", "resourceClaimName": "shared"}]);
        pod
    };
    let (first, one) = testbed.run_pod(user("first")).await?;
    replace(&testbed, policy("[{offer: [shares]}]"))?;
    published(&testbed, &LEAVING).await?;
    let (second, other) = testbed.run_pod(user("second")).await?;
    assert_eq!(one.containers["main"], other.containers["main"]);
    testbed.stop_pod(&first).await?;
    restart(&mut testbed).await?;
    let (third, again) = testbed.run_pod(user("third")).await?;
    assert_eq!(testbed.nodes_of(&again.containers["main"])?, ["/dev/nvidia0"]);
    assert_eq!(testbed.published(), LEAVING);
    testbed.stop_pod(&second).await?;
    testbed.stop_pod(&third).await?;
    published(&testbed, &SHARES).await
}

/// The API object of a pod that is deleted by force is gone at once, and its claim free to be given to others, while its
/// containers still run.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_deleted_by_force_leaves_its_gpu_to_nobody_until_it_is_unprepared() -> Result<()> {
    for (first, then, template, after) in [
        ("[{offer: [shares]}]", "[{offer: [whole]}]", "share", &WHOLE[..]),
        ("[{offer: [whole]}]", "[{offer: [shares]}]", "whole", &SHARES[..]),
    ] {
        let testbed = with_templates(first, 1).await?;
        let (pod, _) = testbed.run_pod(pod("holder", &[template])).await?;
        replace(&testbed, policy(then))?;
        published(&testbed, &LEAVING).await?;
        testbed.scheduler.release(&pod).await?;
        for template in ["share", "whole"] {
            has_no_room_for(&testbed, template).await?;
        }
        testbed.kubelet.stop_pod(pod.metadata.uid.as_deref().unwrap()).await?;
        published(&testbed, after).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_that_is_withheld_goes_when_its_holder_has_left() -> Result<()> {
    let testbed = with_templates("[]", 1).await?;
    let (holder, _) = testbed.run_pod(pod("holder", &["share"])).await?;
    replace(&testbed, policy("[{offer: []}]"))?;
    published(&testbed, &LEAVING).await?;
    has_no_room_for(&testbed, "share").await?;
    testbed.stop_pod(&holder).await?;
    published(&testbed, &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_shares_changes_around_those_that_are_held() -> Result<()> {
    let testbed = with_templates("[{offer: [shares]}]", 3).await?;
    let (three, running) = testbed.run_pod(pod("three", &["shares"])).await?;
    let before = testbed.env_of(&running.containers["main"])?;
    let (also, _) = testbed.run_pod(pod("also", &["shares"])).await?;
    replace(&testbed, policy("[{offer: [shares], shares: {count: 4}}]"))?;
    testbed.until("there are 4", || shares_of(&testbed, T4_SHARE).as_deref() == Some("4")).await?;
    has_no_room_for(&testbed, "share").await?;
    assert_eq!(testbed.env_of(&running.containers["main"])?, before);
    testbed.stop_pod(&also).await?;
    // 3 of 4 are held.
    has_no_room_for(&testbed, "shares").await?;
    testbed.run_pod(pod("fits", &["share"])).await?;
    has_no_room_for(&testbed, "share").await?;
    replace(&testbed, policy("[{offer: [shares], shares: {count: 8, memory: {default: 1Gi}}}]"))?;
    testbed.until("there are 8", || shares_of(&testbed, T4_SHARE).as_deref() == Some("8")).await?;
    testbed.run_pod(pod("more", &["shares"])).await?;
    testbed.run_pod(pod("last", &["share"])).await?;
    has_no_room_for(&testbed, "share").await?;
    testbed.stop_pod(&three).await?;
    testbed.run_pod(pod("again", &["shares"])).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_was_allocated_before_the_change_is_prepared_and_others_wait_for_it() -> Result<()> {
    let testbed = with_templates("[{offer: [whole]}]", 1).await?;
    let early = testbed.create_pod(pod("early", &["whole"])).await?;
    let spec = testbed.scheduler.schedule(&early).await?;
    replace(&testbed, policy("[{offer: [shares]}]"))?;
    // Nothing of it has reached this node, so that the GPU is free to all that is known here.
    published(&testbed, &SHARES).await?;
    let late = testbed.create_pod(pod("late", &["share"])).await?;
    let other = testbed.scheduler.schedule(&late).await?;
    testbed.kubelet.run_pod(spec).await?;
    published(&testbed, &LEAVING).await?;
    let error = testbed.kubelet.run_pod(other.clone()).await.unwrap_err().to_string();
    assert!(error.contains(T4_SHARE) && error.contains("default/early-c0-"), "{error}");
    assert!(testbed.holds()?.values().all(aliquot_tests::holds::Held::is_held_once));
    testbed.stop_pod(&early).await?;
    published(&testbed, &SHARES).await?;
    testbed.kubelet.run_pod(other).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_is_not_known_what_claims_hold_nothing_else_is_offered() -> Result<()> {
    let testbed = with_templates("[{offer: [whole]}]", 1).await?;
    let (holder, _) = testbed.run_pod(pod("holder", &["whole"])).await?;
    let since = testbed.ever_published()?.len();
    // Another instance of the driver that was stopped in the middle of something.
    let lock = fs::File::open(testbed.node.path("run/gpu.aliquot.dev/claims/lock"))?;
    lock.lock()?;
    replace(&testbed, policy("[{offer: [shares]}]"))?;
    testbed.until("the records can't be read", || testbed.log().contains("until it is known what claims hold")).await?;
    nothing_else_was_published(&testbed, since, &WHOLE)?;
    lock.unlock()?;
    testbed.stop_pod(&holder).await?;
    published(&testbed, &SHARES).await
}
