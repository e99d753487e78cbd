//! The memory guard: real processes whose memory the simulated GPUs tell, and what becomes of those that use too much.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod attributed;
mod blind;
mod evicted;
mod killed;
mod observed;
mod two_drivers;
mod users;

use std::time::Duration;

use aliquot_tests::{
    objects::{pod, pod_of_shared, shared_claim, template, templates},
    policies::{file, policy, prepared, replace},
    testbed::{Result, Testbed, apply},
};
use k8s_openapi::api::{core::v1::Pod, resource::v1::Device};
use serde_json::{Value, json};
use users::Users;

const GI: u64 = 1 << 30;
const MI: u64 = 1 << 20;
/// A share of profile t4x1's GPU: a tenth of 15 GiB.
const LIMIT: u64 = 1536 * MI;
const INTERVAL: Duration = Duration::from_millis(50);

/// Rules with this guard for all GPUs.
fn guard(mode: &str, grace: &str) -> String {
    format!("[{{shares: {{guard: {{mode: {mode}, grace: {grace}}}}}}}]")
}

/// Starts the driver again, with a guard that looks often.
async fn restart(testbed: &mut Testbed) -> Result<()> {
    let (file, interval) = (file(testbed), format!("{}ms", INTERVAL.as_millis()));
    testbed.restart_driver(&[("ALIQUOT_POLICY", file.to_str().unwrap()), ("ALIQUOT_GUARD_INTERVAL", &interval)]).await
}

/// A node with such a driver, and the templates `whole` and `share`.
async fn guarded(profile: &str, mode: &str, grace: &str) -> Result<Testbed> {
    let mut testbed = prepared(profile, &guard(mode, grace)).await?;
    testbed.permit_guard()?;
    apply(&testbed.client, &templates()).await?;
    restart(&mut testbed).await?;
    testbed.ready().await?;
    Ok(testbed)
}

/// Runs a pod with claims of these templates.
async fn run(testbed: &Testbed, name: &str, templates: &[&str]) -> Result<Pod> {
    Ok(testbed.run_pod(pod(name, templates)).await?.0)
}

fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap()
}

/// The names of a pod's own claims, in order.
fn claims_of(testbed: &Testbed, pod: &str) -> Vec<String> {
    let names = testbed.api.peek_all("resourceclaims").into_iter();
    let names = names.filter_map(|claim| claim["metadata"]["name"].as_str().map(ToOwned::to_owned));
    let mut names: Vec<String> = names.filter(|name| name.starts_with(&format!("{pod}-c"))).collect();
    names.sort();
    names
}

/// A metric's line about claims' memory on the testbed's first GPU.
fn line(testbed: &Testbed, metric: &str, claims: &[String]) -> String {
    let uuid = &testbed.node.profile().gpus[0].uuid;
    let claims = claims.join(",");
    format!("aliquot_share_memory_{metric}{{uuid=\"{uuid}\",namespace=\"default\",claim=\"{claims}\"}}")
}

/// Waits until a device is published with a text attribute of this value: a pool's slices come one after the other.
async fn is_published(testbed: &Testbed, device: &str, name: &str, value: &str) -> Result<()> {
    let has = |one: &Device| {
        let attribute = one.attributes.as_ref().and_then(|all| all.get(name)?.string.as_deref());
        one.name == device && attribute == Some(value)
    };
    let what = format!("{device} is published with {name} {value}");
    testbed.until(&what, || testbed.devices().iter().any(has)).await
}

fn done(action: &str) -> String {
    format!("aliquot_guard_actions_total{{action=\"{action}\"}}")
}

/// All events of the guard, as their reason and pod.
fn told(testbed: &Testbed) -> Vec<(String, String)> {
    let text = |event: &Value, path: &str| event.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let all = testbed.api.peek_all("events").into_iter();
    let all = all.map(|event| (text(&event, "/reason"), text(&event, "/regarding/name")));
    all.filter(|(reason, _)| reason.starts_with("ShareMemory")).collect()
}

/// Lets the guard look so many times; for what must not happen.
async fn looks(times: u32) {
    tokio::time::sleep(INTERVAL * times).await;
}
