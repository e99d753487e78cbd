//! GPUs in shares: who gets what beside whom, from the slices to the container, and what is left when they go.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod beside;
mod claims;
mod examples;
mod fixed;
mod random;
mod time_slices;

use aliquot_tests::testbed::{DRIVER, NODE, Result, Testbed};
use fake_apiserver::{Builder, Server};
use kubelet_api::dra::v1::Claim;
use serde_json::{Value, json};

/// The GPU of profile t4x1.
const T4: &str = "gpu-0000-00-1e";
/// Its shares.
const T4_SHARE: &str = "gpu-0000-00-1e-shared";
const GI: u64 = 1 << 30;

/// An entry of an allocation's results: a share of a device.
fn share(request: &str, device: &str, shares: u64, gib: u64) -> Value {
    let mut result = whole(request, device);
    result["shareID"] = json!(uuid());
    result["consumedCapacity"] = json!({"shares": shares.to_string(), "memory": format!("{gib}Gi")});
    result
}

/// The same for a device in whole.
fn whole(request: &str, device: &str) -> Value {
    json!({"driver": DRIVER, "pool": format!("{DRIVER}/{NODE}"), "device": device, "request": request})
}

fn allocation(results: &[Value]) -> Value {
    json!({"devices": {"results": results}})
}

/// A claim to which shares are allocated, whatever others hold.
async fn sharing(testbed: &Testbed, name: &str, results: &[Value]) -> Result<Claim> {
    testbed.allocated_as(name, allocation(results)).await
}

fn uuid() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap().trim().to_owned()
}

/// A pod with one container that uses claims of its own, each of these requests of one template's `exactly`.
fn pod(name: &str, templates: &[&str]) -> Value {
    let claims = || templates.iter().enumerate();
    let of_pod: Vec<Value> =
        claims().map(|(n, of)| json!({"name": format!("c{n}"), "resourceClaimTemplateName": of})).collect();
    let used: Vec<Value> = claims().map(|(n, _)| json!({"name": format!("c{n}")})).collect();
    let container = json!({"name": "main", "image": "ubuntu:24.04", "resources": {"claims": used}});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"resourceClaims": of_pod, "containers": [container]}})
}

/// A template with one request.
fn template(name: &str, exactly: &Value) -> Value {
    json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate", "metadata": {"name": name},
        "spec": {"spec": {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}}}})
}

/// The templates `whole` and `share`.
fn templates() -> [Value; 2] {
    [
        template("whole", &json!({"deviceClassName": "gpu.aliquot.dev"})),
        template("share", &json!({"deviceClassName": "share.gpu.aliquot.dev"})),
    ]
}

/// A node of a profile whose driver gives up on a prepare soon.
async fn impatient(profile: &str) -> Result<Testbed> {
    let mut testbed = Testbed::without_driver(profile, Server::builder()).await?;
    testbed.start_driver(&[("ALIQUOT_PREPARE_BUDGET", "500ms")])?;
    testbed.ready().await?;
    Ok(testbed)
}

/// An API server before Kubernetes 1.36, or with the gates off.
fn old_server() -> Builder {
    [
        "spec.devices[].allowMultipleAllocations",
        "spec.devices[].capacity.*.requestPolicy",
        "spec.devices[].consumesCounters",
        "spec.sharedCounters",
    ]
    .into_iter()
    .fold(Server::builder(), |server, path| server.drop_field("resourceslices", path))
}

fn nothing_is_left(testbed: &Testbed) -> Result<()> {
    assert_eq!((testbed.specs()?, testbed.records()?), (vec![], vec![]));
    Ok(())
}
