//! Claims that are stuck: told once, with what to do, and forgotten when they aren't any more.
use aliquot_tests::{
    controllers::{Stage, claim, node, pod, slice},
    testbed::{DRIVER, Result},
};
use fake_apiserver::{Fault, Trouble};
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use super::FAST;

const GONE: &str = "aliquot_controller_stuck_claims{state=\"gpu_gone\"}";
const UNSEEN: &str = "aliquot_controller_stuck_claims{state=\"gpu_unseen\"}";
const PODS: &str = "aliquot_controller_stuck_claims{state=\"reserved_for_gone_pods\"}";
const DELETING: &str = "aliquot_controller_stuck_claims{state=\"deleting\"}";

/// A node with two GPUs, and a claim in use on the first.
async fn stage() -> Result<Stage> {
    let stage = Stage::start().await?;
    stage.api.seed("nodes", [node("n1", "u1")]);
    stage.api.seed("resourceslices", [slice(DRIVER, "n1", "u1", &["gpu-0000-41-00", "gpu-0000-42-00"])]);
    stage.api.seed("pods", [pod("p1", "pod-1")]);
    stage.api.seed("resourceclaims", [claim("c1", "claim-1", ("n1", "gpu-0000-41-00"), &[("p1", "pod-1")])]);
    Ok(stage)
}

fn claims(stage: &Stage) -> Api<ResourceClaim> {
    Api::namespaced(stage.client.clone(), "default")
}

fn note(event: &Value) -> &str {
    event["note"].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_is_deleted_and_still_allocated_is_told_once_and_by_no_restart_again() -> Result<()> {
    let stage = stage().await?;
    let mut replica = stage.replica("a", &FAST)?;
    replica.ready().await?;
    claims(&stage).delete("c1", &DeleteParams::default()).await?;
    replica.until_metric(DELETING, 1.0).await?;
    let events = stage.events("ClaimStuckDeleting");
    assert_eq!(
        (events.len(), &events[0]["type"], &events[0]["regarding"]["kind"]),
        (1, &"Warning".into(), &"ResourceClaim".into())
    );
    assert!(note(&events[0]).contains("pods/p1") && events[0]["regarding"]["uid"] == "claim-1", "{events:?}");
    replica.stop()?;
    let again = stage.replica("b", &FAST)?;
    again.until_metric(DELETING, 1.0).await?;
    assert_eq!(stage.events("ClaimStuckDeleting"), events);
    assert!(!again.log().contains("being deleted"), "{}", again.log());
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    claims(&stage).patch("c1", &PatchParams::default(), &free).await?;
    again.until_metric(DELETING, 0.0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_counted_where_its_namespace_takes_no_event_any_more() -> Result<()> {
    let stage = stage().await?;
    let namespace = json!({"metadata": {"name": "default", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
    stage.api.seed("namespaces", [namespace]);
    let replica = stage.replica("a", &FAST)?;
    replica.ready().await?;
    claims(&stage).delete("c1", &DeleteParams::default()).await?;
    replica.until_metric(DELETING, 1.0).await?;
    assert!(replica.log().contains("namespace that is being deleted"), "{}", replica.log());
    assert_eq!(replica.metric("aliquot_controller_api_failures_total{call=\"create an Event\"}").await?, None);
    assert!(stage.events("ClaimStuckDeleting").is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_counted_though_it_cannot_be_told_and_told_when_it_can() -> Result<()> {
    let stage = stage().await?;
    let trouble = Trouble::Error(403, None);
    stage.api.inject(Fault { verb: "create".into(), resource: "events".into(), times: usize::MAX, trouble });
    let replica = stage.replica("a", &FAST)?;
    replica.ready().await?;
    claims(&stage).delete("c1", &DeleteParams::default()).await?;
    replica.until_metric(DELETING, 1.0).await?;
    assert!(stage.events("ClaimStuckDeleting").is_empty());
    stage.api.heal();
    stage.until("it is told", || stage.events("ClaimStuckDeleting").len() == 1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn reservations_for_pods_that_are_gone_are_told_and_never_touched() -> Result<()> {
    let stage = stage().await?;
    let reserved = [("p1", "pod-1"), ("p2", "pod-2"), ("p1", "pod-of-the-name-before")];
    stage.api.seed("resourceclaims", [claim("c2", "claim-2", ("n1", "gpu-0000-42-00"), &reserved)]);
    let replica = stage.replica("a", &FAST)?;
    replica.until_metric(PODS, 1.0).await?;
    let events = stage.events("ClaimReservedForGonePods");
    assert_eq!(events.len(), 1, "{events:?}");
    assert!(
        note(&events[0]).contains(": p1, p2.") && note(&events[0]).contains("--release-stuck-claims"),
        "{events:?}"
    );
    let live = stage.api.peek("resourceclaims", "default", "c2").unwrap();
    assert_eq!(live["status"]["reservedFor"].as_array().unwrap().len(), 3);
    let writes = |resource: &str| {
        stage
            .api
            .requests()
            .keys()
            // A status is a part of its object.
            .filter(|(verb, of)| {
                of.split('/').next() == Some(resource) && !["get", "list", "watch"].contains(&verb.as_str())
            })
            .count()
    };
    assert_eq!((writes("resourceclaims"), writes("pods")), (0, 0));
    stage.api.seed("pods", [pod("p1-again", "pod-of-the-name-before"), pod("p2", "pod-2")]);
    replica.until_metric(PODS, 0.0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_whose_gpu_has_left_its_node_is_told_and_one_that_is_only_withdrawn_is_not() -> Result<()> {
    let stage = stage().await?;
    stage.api.seed("pods", [pod("p2", "pod-2")]);
    stage.api.seed("resourceclaims", [claim("c2", "claim-2", ("n1", "gpu-0000-42-00-shared"), &[("p2", "pod-2")])]);
    let replica = stage.replica("a", &FAST)?;
    replica.ready().await?;
    // Of the second, as after a change of the policy, only the device for administration is left.
    let mut left = slice(DRIVER, "n1", "u1", &["gpu-0000-42-00"]);
    left["spec"]["devices"].as_array_mut().unwrap().retain(|device| device["name"] == "gpu-0000-42-00-admin");
    stage.api.seed("resourceslices", [left]);
    replica.until_metric(GONE, 1.0).await?;
    let events = stage.events("ClaimGPUGone");
    assert_eq!((events.len(), &events[0]["regarding"]["name"]), (1, &"c1".into()));
    assert!(note(&events[0]).contains("gpu-0000-41-00 of pool gpu.aliquot.dev/n1"), "{events:?}");
    stage.api.seed("resourceslices", [slice(DRIVER, "n1", "u1", &["gpu-0000-41-00"])]);
    stage.until("the other one is told", || stage.events("ClaimGPUGone").len() == 2).await?;
    assert!(stage.events("ClaimGPUGone").iter().any(|event| event["regarding"]["name"] == "c2"));
    replica.until_metric(GONE, 1.0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_advised_to_delete_pods_while_the_driver_sees_no_gpu_at_all() -> Result<()> {
    let stage = stage().await?;
    let replica = stage.replica("a", &FAST)?;
    replica.ready().await?;
    stage.api.seed("resourceslices", [slice(DRIVER, "n1", "u1", &[])]);
    replica.until_metric(UNSEEN, 1.0).await?;
    let events = stage.events("ClaimGPUUnseen");
    assert!(events.len() == 1 && note(&events[0]).contains("pods may run on"), "{events:?}");
    assert!(stage.events("ClaimGPUGone").is_empty());
    stage.api.seed("resourceslices", [slice(DRIVER, "n1", "u1", &["gpu-0000-41-00"])]);
    replica.until_metric(UNSEEN, 0.0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_is_told_gone_only_when_a_live_list_of_slices_could_say_so() -> Result<()> {
    let stage = stage().await?;
    let replica = stage.replica("a", &FAST)?;
    replica.ready().await?;
    let trouble = Trouble::Error(500, None);
    stage.api.inject(Fault { verb: "list".into(), resource: "resourceslices".into(), times: usize::MAX, trouble });
    stage.api.seed("resourceslices", [slice(DRIVER, "n1", "u1", &["gpu-0000-42-00"])]);
    let failed = "aliquot_controller_api_failures_total{call=\"list ResourceSlices\"}";
    replica.until_metric(failed, 1.0).await?;
    assert_eq!(replica.metric(GONE).await?, Some(0.0));
    stage.api.heal();
    replica.until_metric(GONE, 1.0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_of_other_drivers_are_nobodys_business_here() -> Result<()> {
    let stage = stage().await?;
    let mut other = claim("c3", "claim-3", ("n1", "x"), &[("gone", "gone")]);
    other["status"]["allocation"]["devices"]["results"][0]["driver"] = json!("other.example.com");
    stage.api.seed("resourceclaims", [other]);
    let replica = stage.replica("a", &FAST)?;
    replica.ready().await?;
    // What came before it in the list is known, so it was seen as well.
    replica.until_metric("aliquot_controller_watched{resource=\"resourceclaims\"}", 1.0).await
}
