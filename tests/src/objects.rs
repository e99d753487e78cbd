//! Claims, templates and pods as suites write them.
use kubelet_api::dra::v1::Claim;
use serde_json::{Value, json};

use crate::testbed::{DRIVER, NODE, Result, Testbed};

/// An entry of an allocation's results: a share of a device.
pub fn share(request: &str, device: &str, shares: u64, gib: u64) -> Value {
    let mut result = whole(request, device);
    result["shareID"] = json!(uuid::Uuid::new_v4().to_string());
    result["consumedCapacity"] = json!({"shares": shares.to_string(), "memory": format!("{gib}Gi")});
    result
}

/// The same for a device in whole.
pub fn whole(request: &str, device: &str) -> Value {
    json!({"driver": DRIVER, "pool": format!("{DRIVER}/{NODE}"), "device": device, "request": request})
}

/// An allocation of these.
pub fn allocation(results: &[Value]) -> Value {
    json!({"devices": {"results": results}})
}

/// A claim to which shares are allocated, whatever others hold.
pub async fn sharing(testbed: &Testbed, name: &str, results: &[Value]) -> Result<Claim> {
    testbed.allocated_as(name, allocation(results)).await
}

/// A pod with one container that uses claims of its own, each of these requests of one template's `exactly`.
pub fn pod(name: &str, templates: &[&str]) -> Value {
    let claims = || templates.iter().enumerate();
    let of_pod: Vec<Value> =
        claims().map(|(n, of)| json!({"name": format!("c{n}"), "resourceClaimTemplateName": of})).collect();
    let used: Vec<Value> = claims().map(|(n, _)| json!({"name": format!("c{n}")})).collect();
    let container = json!({"name": "main", "image": "ubuntu:24.04", "resources": {"claims": used}});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"resourceClaims": of_pod, "containers": [container]}})
}

/// A template with one request.
pub fn template(name: &str, exactly: &Value) -> Value {
    json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate", "metadata": {"name": name},
        "spec": {"spec": {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}}}})
}

/// The templates `whole` and `share`.
pub fn templates() -> [Value; 2] {
    [
        template("whole", &json!({"deviceClassName": "gpu.aliquot.dev"})),
        template("share", &json!({"deviceClassName": "share.gpu.aliquot.dev"})),
    ]
}

/// A claim of its own to a share, named `shared`, for several pods.
pub fn shared_claim() -> Value {
    let request = json!({"name": "gpu", "exactly": {"deviceClassName": "share.gpu.aliquot.dev"}});
    json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": "shared"},
        "spec": {"devices": {"requests": [request]}}})
}

/// A pod that uses it.
pub fn pod_of_shared(name: &str) -> Value {
    let mut pod = pod(name, &[""]);
    pod["spec"]["resourceClaims"] = json!([{"name": "c0", "resourceClaimName": "shared"}]);
    pod
}
