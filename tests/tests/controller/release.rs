//! `--release-stuck-claims`: what it frees, when, and what it leaves alone.
use aliquot_tests::{
    controllers::{Stage, claim, node, pod, slice},
    testbed::{DRIVER, Result},
};
use fake_apiserver::{Fault, Trouble};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::DeleteParams};
use serde_json::{Value, json};

use super::FAST;

async fn stage() -> Result<Stage> {
    let stage = Stage::start().await?;
    stage.permit_release()?;
    stage.api.seed("nodes", [node("n1", "u1")]);
    stage.api.seed("resourceslices", [slice(DRIVER, "n1", "u1", &["gpu-0000-41-00", "gpu-0000-42-00"])]);
    stage.api.seed("pods", [pod("p1", "pod-1")]);
    Ok(stage)
}

fn status(stage: &Stage, claim: &str) -> Value {
    stage.api.peek("resourceclaims", "default", claim).unwrap()["status"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn gone_pods_are_removed_and_the_allocation_goes_with_the_last() -> Result<()> {
    let stage = stage().await?;
    let shared = [("p1", "pod-1"), ("p2", "pod-2")];
    stage.api.seed(
        "resourceclaims",
        [
            claim("shared", "claim-1", ("n1", "gpu-0000-41-00"), &shared),
            claim("alone", "claim-2", ("n1", "gpu-0000-42-00"), &shared[1..]),
        ],
    );
    let mut mixed = claim("mixed", "claim-3", ("n1", "gpu-0000-42-00"), &shared[1..]);
    let results = mixed["status"]["allocation"]["devices"]["results"].as_array_mut().unwrap();
    results.push(json!({"request": "nic", "driver": "other.example.com", "pool": "n1", "device": "nic-0"}));
    stage.api.seed("resourceclaims", [mixed.clone()]);
    let mut flags = FAST.to_vec();
    flags.push("--release-stuck-claims");
    let replica = stage.replica("a", &flags)?;
    replica.until_metric("aliquot_controller_claims_released_total", 2.0).await?;
    let left = status(&stage, "shared");
    assert_eq!((left["reservedFor"].as_array().unwrap().len(), &left["reservedFor"][0]["name"]), (1, &"p1".into()));
    assert!(left["allocation"].is_object());
    let freed = status(&stage, "alone");
    assert!(freed.get("allocation").is_none() && freed.get("reservedFor").is_none(), "{freed}");
    stage.until("both are told", || stage.events("ClaimReleased").len() == 2).await?;
    assert_eq!(status(&stage, "mixed"), mixed["status"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_release_of_a_shared_claim_is_told() -> Result<()> {
    let stage = stage().await?;
    stage.api.seed("pods", [pod("p3", "pod-3")]);
    let pods = [("p1", "pod-1"), ("p2", "pod-2"), ("p3", "pod-3")];
    stage.api.seed("resourceclaims", [claim("c", "claim-1", ("n1", "gpu-0000-41-00"), &pods)]);
    let mut flags = FAST.to_vec();
    flags.push("--release-stuck-claims");
    let _replica = stage.replica("a", &flags)?;
    stage.until("the first is told", || stage.events("ClaimReleased").len() == 1).await?;
    let pods: Api<Pod> = Api::namespaced(stage.client.clone(), "default");
    pods.delete("p3", &DeleteParams::default()).await?;
    stage.until("the second is told", || stage.events("ClaimReleased").len() == 2).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_freed_only_when_that_was_told_or_cannot_be() -> Result<()> {
    let stage = stage().await?;
    let mut elsewhere = claim("ending", "claim-2", ("n1", "gpu-0000-42-00"), &[("p2", "pod-2")]);
    elsewhere["metadata"]["namespace"] = json!("ending");
    stage.api.seed("resourceclaims", [elsewhere]);
    let deleted = json!({"metadata": {"name": "ending", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
    stage.api.seed("namespaces", [deleted]);
    let mut flags = FAST.to_vec();
    flags.push("--release-stuck-claims");
    let replica = stage.replica("a", &flags)?;
    let released = "aliquot_controller_claims_released_total";
    replica.until_metric(released, 1.0).await?;
    let trouble = Trouble::Error(403, None);
    stage.api.inject(Fault { verb: "create".into(), resource: "events".into(), times: usize::MAX, trouble });
    stage.api.seed("resourceclaims", [claim("c", "claim-1", ("n1", "gpu-0000-41-00"), &[("p2", "pod-2")])]);
    let asked = |verb: &str, of: &str| stage.api.requests().get(&(verb.to_owned(), of.to_owned())).copied();
    let before = asked("create", "events").unwrap_or_default();
    // Twice as often as it would take if it had been told.
    stage.until("it has tried", || asked("create", "events") >= Some(before + 4)).await?;
    assert_eq!(asked("patch", "resourceclaims"), Some(1));
    stage.api.heal();
    replica.until_metric(released, 2.0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_cannot_be_looked_up_is_not_gone() -> Result<()> {
    let stage = stage().await?;
    stage.api.seed("resourceclaims", [claim("c", "claim-1", ("n1", "gpu-0000-41-00"), &[("p2", "pod-2")])]);
    let fault = Fault { verb: "get".into(), resource: "pods".into(), times: 3, trouble: Trouble::Error(404, None) };
    stage.api.inject(fault);
    let mut flags = FAST.to_vec();
    flags.push("--release-stuck-claims");
    let replica = stage.replica("a", &flags)?;
    let failed = "aliquot_controller_api_failures_total{call=\"get a Pod\"}";
    replica.until_metric(failed, 3.0).await?;
    assert!(status(&stage, "c")["allocation"].is_object());
    replica.until_metric("aliquot_controller_claims_released_total", 1.0).await
}
