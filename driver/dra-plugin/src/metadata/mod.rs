//! Device metadata (KEP-5304): what a container may read of the devices that its claims brought it.
//!
//! ```text
//! ContainerDir/resourceclaims/<claim>/<request>/<driver>-metadata.json                      a claim of its own
//! ContainerDir/resourceclaimtemplates/<name in the pod>/<request>/<driver>-metadata.json    one made of a template
//! ```
//! One file for each request. [`Subject`] says what is in it and where it belongs in a container; [`Files`] keeps it on the
//! node. How it comes into containers is the driver's: a read-only bind mount in a CDI device, whose id it adds to the first
//! device of each request. No feature gate of Kubernetes is behind this; whoever wants to read the files must know them.
mod files;

use std::collections::BTreeMap;

pub use files::Files;
use k8s_openapi::api::resource::v1::DeviceAttribute;
use serde::{Deserialize, Serialize};

use crate::{
    claim::{ClaimRef, ClaimUid, RequestName},
    name::is_dns_subdomain,
};

/// Below which containers find the files of all drivers.
pub const CONTAINER_DIR: &str = "/var/run/kubernetes.io/dra-device-attributes";
/// The annotation by which a claim that was made of a template names itself as the pod does.
pub const POD_CLAIM: &str = "resource.kubernetes.io/pod-claim-name";

/// The only version so far (Kubernetes 1.36).
const API_VERSION: &str = "metadata.resource.k8s.io/v1alpha1";
const KIND: &str = "DeviceMetadata";

/// One request of a claim, as seen from the driver that has devices in it.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Who writes.
    pub driver: &'a str,
    /// Whose claim.
    pub claim: &'a ClaimRef,
    /// What the pod calls the claim, where it was made of a template; see [`pod_claim_name`].
    pub pod_claim: Option<&'a str>,
    /// Which request, with the sub-request that was chosen.
    pub request: &'a RequestName,
}

/// What is told of a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceFacts {
    /// Whose device it is.
    pub driver: String,
    /// Its pool.
    pub pool: String,
    /// Its name in the pool.
    pub name: String,
    /// As in a `ResourceSlice`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, DeviceAttribute>,
}

impl Subject<'_> {
    /// The file's bytes: one object for each version, the newest first.
    pub fn document(&self, devices: Vec<DeviceFacts>) -> Result<Vec<u8>, serde_json::Error> {
        let metadata = Metadata {
            api_version: API_VERSION.to_owned(),
            kind: KIND.to_owned(),
            object: Object {
                name: self.claim.name().to_owned(),
                namespace: self.claim.namespace().to_owned(),
                uid: self.claim.uid().as_str().to_owned(),
                generation: 1,
            },
            pod_claim_name: self.pod_claim.map(ToOwned::to_owned),
            requests: vec![Request { name: self.request.to_string(), devices }],
        };
        let mut bytes = serde_json::to_vec_pretty(&metadata)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Where a container finds it.
    pub fn container_path(&self) -> String {
        let (of, claim) = match self.pod_claim {
            Some(name) => ("resourceclaimtemplates", name),
            None => ("resourceclaims", self.claim.name()),
        };
        format!("{CONTAINER_DIR}/{of}/{claim}/{}/{}-metadata.json", component(self.request), self.driver)
    }

    /// The name of the CDI device that brings it, unique among all claims' as UIDs are.
    pub fn cdi_name(&self) -> String {
        format!("{}_{}", self.claim.uid(), component(self.request))
    }
}

/// Whether bytes are a file about a request of this claim.
pub fn is_about(bytes: &[u8], uid: &ClaimUid, request: &RequestName) -> bool {
    let first = serde_json::Deserializer::from_slice(bytes).into_iter::<Metadata>().next();
    first.and_then(Result::ok).is_some_and(|told| {
        told.object.uid == uid.as_str() && told.requests.iter().any(|about| about.name == request.to_string())
    })
}

/// What a pod calls a claim, by the claim's annotation. It ends in a path, and whoever may make claims may write it: what
/// couldn't be the name of a claim in a pod counts as none.
pub fn pod_claim_name(annotations: Option<&BTreeMap<String, String>>) -> Option<String> {
    annotations?.get(POD_CLAIM).filter(|name| is_label(name)).cloned()
}

fn is_label(text: &str) -> bool {
    text.len() <= 63 && !text.contains('.') && is_dns_subdomain(text)
}

/// A request as a part of a path. The API server takes DNS labels only; of anything else no character leads elsewhere.
fn component(request: &RequestName) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    request.base().chars().map(plain).collect()
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    api_version: String,
    kind: String,
    #[serde(rename = "metadata")]
    object: Object,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod_claim_name: Option<String>,
    requests: Vec<Request>,
}

#[derive(Serialize, Deserialize)]
struct Object {
    name: String,
    namespace: String,
    uid: String,
    generation: u64,
}

#[derive(Serialize, Deserialize)]
struct Request {
    name: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    devices: Vec<DeviceFacts>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim() -> ClaimRef {
        ClaimRef::new("team", "training", "u1").unwrap()
    }

    fn facts(name: &str) -> DeviceFacts {
        let place = DeviceAttribute { string: Some("0000:41:00.0".into()), ..DeviceAttribute::default() };
        let attributes = BTreeMap::from([("resource.kubernetes.io/pciBusID".to_owned(), place)]);
        DeviceFacts { driver: "gpu.example.com".into(), pool: "node1".into(), name: name.into(), attributes }
    }

    #[test]
    fn a_file_is_what_kubernetes_calls_device_metadata() {
        let (claim, request) = (claim(), RequestName::parse("gpu/big"));
        let subject = Subject { driver: "gpu.example.com", claim: &claim, pod_claim: Some("mine"), request: &request };
        let bytes = subject.document(vec![facts("gpu-0")]).unwrap();
        let told: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        let expected = serde_json::json!({
            "apiVersion": "metadata.resource.k8s.io/v1alpha1",
            "kind": "DeviceMetadata",
            "metadata": {"name": "training", "namespace": "team", "uid": "u1", "generation": 1},
            "podClaimName": "mine",
            "requests": [{"name": "gpu/big", "devices": [{
                "driver": "gpu.example.com", "pool": "node1", "name": "gpu-0",
                "attributes": {"resource.kubernetes.io/pciBusID": {"string": "0000:41:00.0"}},
            }]}],
        });
        assert_eq!(told, expected);
        assert!(is_about(&bytes, claim.uid(), &request));
        assert!(!is_about(&bytes, &ClaimUid::new("u2").unwrap(), &request));
        assert!(!is_about(&bytes, claim.uid(), &RequestName::parse("gpu/small")));
        assert!(!is_about(&bytes[..bytes.len() / 2], claim.uid(), &request));
    }

    #[test]
    fn its_place_is_by_the_claims_name_or_by_what_the_pod_calls_it() {
        let (claim, request) = (claim(), RequestName::parse("gpu/big"));
        let own = Subject { driver: "gpu.example.com", claim: &claim, pod_claim: None, request: &request };
        let below = "/var/run/kubernetes.io/dra-device-attributes";
        assert_eq!(own.container_path(), format!("{below}/resourceclaims/training/gpu/gpu.example.com-metadata.json"));
        let made = Subject { pod_claim: Some("mine"), ..own };
        let path = format!("{below}/resourceclaimtemplates/mine/gpu/gpu.example.com-metadata.json");
        assert_eq!((made.container_path(), made.cdi_name()), (path, "u1_gpu".to_owned()));
    }

    #[test]
    fn an_annotation_that_would_lead_elsewhere_is_none() {
        let told = |name: &str| pod_claim_name(Some(&BTreeMap::from([(POD_CLAIM.to_owned(), name.to_owned())])));
        assert_eq!(told("mine").as_deref(), Some("mine"));
        for name in ["", ".", "..", "../../../etc", "a/b", "A", "a.b", &"x".repeat(64)] {
            assert_eq!(told(name), None, "{name}");
        }
        assert_eq!(pod_claim_name(None), None);
    }
}
