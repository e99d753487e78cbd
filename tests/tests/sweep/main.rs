//! The sweep: what is left of claims that are gone is removed once that is proven, and nothing else ever.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod files;
mod kept;
mod many;
mod quarantine;
mod stale;
mod status;
mod two_drivers;

use std::time::{Duration, Instant};

use aliquot_tests::testbed::{DRIVER, NODE, Result, Testbed};
use fake_apiserver::Server;
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use kubelet_api::dra::v1::Claim;
use serde_json::{Value, json};

/// The first of profile h100x8's GPUs, and the second.
const ONE: &str = "gpu-0000-1b-00";
const TWO: &str = "gpu-0000-43-00";
const GRACE: Duration = Duration::from_millis(500);
/// Nobody but the sweep asks the kubelet for its list.
const QUICK: [(&str, &str); 3] =
    [("ALIQUOT_SWEEP_INTERVAL", "50ms"), ("ALIQUOT_SWEEP_GRACE", "500ms"), ("ALIQUOT_OTHER_PLUGINS", "ignore")];

/// A node whose driver sweeps often, with more environment.
async fn started(environment: &[(&str, &str)]) -> Result<Testbed> {
    let mut testbed = Testbed::without_driver("h100x8", Server::builder()).await?;
    testbed.start_driver(&[&QUICK, environment].concat())?;
    testbed.ready().await?;
    Ok(testbed)
}

/// A claim to a device that the kubelet has had prepared and knows nothing of.
async fn forgotten(testbed: &Testbed, name: &str, device: &str) -> Result<Claim> {
    let claim = testbed.allocated(name, &[("gpu", device)]).await?;
    testbed.prepare(&claim).await?.unwrap();
    Ok(claim)
}

fn claims(testbed: &Testbed) -> Api<ResourceClaim> {
    Api::namespaced(testbed.client.clone(), "default")
}

async fn delete(testbed: &Testbed, name: &str) -> Result<()> {
    claims(testbed).delete(name, &DeleteParams::default()).await?;
    Ok(())
}

/// Gives a claim another allocation, or none.
async fn allocate(testbed: &Testbed, name: &str, allocation: Value) -> Result<()> {
    let status = Patch::Merge(json!({"status": {"allocation": allocation}}));
    claims(testbed).patch_status(name, &PatchParams::default(), &status).await?;
    Ok(())
}

/// An allocation to one device of a node.
fn on(node: &str, device: &str) -> Value {
    json!({"devices": {"results": [
        {"driver": DRIVER, "pool": format!("{DRIVER}/{node}"), "device": device, "request": "gpu"}]}})
}

fn holds_nothing(testbed: &Testbed) -> bool {
    testbed.specs().is_ok_and(|specs| specs.is_empty()) && testbed.records().is_ok_and(|records| records.is_empty())
}

/// Waits until nothing is left on the node; how long that took.
async fn swept(testbed: &Testbed) -> Result<Duration> {
    let begun = Instant::now();
    testbed.until("nothing is left", || holds_nothing(testbed)).await?;
    Ok(begun.elapsed())
}

/// Waits for so many rounds of the sweep, each of which asks the kubelet.
async fn rounds(testbed: &Testbed, count: usize) -> Result<()> {
    let end = testbed.kubelet.lists() + count;
    testbed.until("the sweep has looked", || testbed.kubelet.lists() >= end).await
}

/// Rounds that take longer than the grace period, twice.
const ENOUGH: usize = 25;

/// How often the API server was asked for a claim.
fn asked(testbed: &Testbed) -> usize {
    testbed.api.requests().get(&("get".to_owned(), "resourceclaims".to_owned())).copied().unwrap_or_default()
}

fn removed(reason: &str) -> String {
    format!("aliquot_sweep_removed_total{{reason=\"{reason}\"}}")
}
