//! GPUs in shares: who gets what beside whom, from the slices to the container, and what is left when they go.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod beside;
mod claims;
mod debts;
mod examples;
mod fixed;
mod gateless;
mod random;
mod spread;
mod time_slices;

use aliquot_tests::{
    objects::{allocation, pod, pod_of_shared, share, shared_claim, sharing, template, templates, whole},
    testbed::{DRIVER, NODE, NODE_DEVICE, Result, Testbed},
};
use fake_apiserver::{Builder, Server};
use kubelet_api::dra::v1::Claim;
use serde_json::{Value, json};

/// The GPU of profile t4x1.
const T4: &str = "gpu-0000-00-1e";
/// Its shares.
const T4_SHARE: &str = "gpu-0000-00-1e-shared";
const GI: u64 = 1 << 30;

/// A node of a profile whose driver gives up on a prepare soon.
async fn impatient(profile: &str) -> Result<Testbed> {
    let mut testbed = Testbed::without_driver(profile, Server::builder()).await?;
    testbed.start_driver(&[("ALIQUOT_PREPARE_BUDGET", "500ms")])?;
    testbed.ready().await?;
    Ok(testbed)
}

/// What an API server before Kubernetes 1.36, or with the gates off, doesn't store.
const GATED: [&str; 4] = [
    "spec.devices[].allowMultipleAllocations",
    "spec.devices[].capacity.*.requestPolicy",
    "spec.devices[].consumesCounters",
    "spec.sharedCounters",
];

/// Such an API server.
fn old_server() -> Builder {
    GATED.into_iter().fold(Server::builder(), |server, path| server.drop_field("resourceslices", path))
}

fn nothing_is_left(testbed: &Testbed) -> Result<()> {
    assert_eq!((testbed.specs()?, testbed.records()?), (vec![], vec![]));
    Ok(())
}
