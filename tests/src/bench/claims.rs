//! Claims to measure with: allocated for administration, so that any number of them can hold one device.
use k8s_openapi::{
    api::{
        core::v1::Namespace,
        resource::v1::{
            AllocationResult, Device, DeviceAllocationResult, DeviceClaim, DeviceRequest,
            DeviceRequestAllocationResult, ExactDeviceRequest, ResourceClaim, ResourceClaimSpec, ResourceClaimStatus,
            ResourceSlice,
        },
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use kubelet_api::dra::v1::Claim;
use serde::{Deserialize, Serialize};

/// Where the claims are made.
pub const NAMESPACE: &str = "aliquot-bench";

/// A claim as a file of claims holds it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// Of the claim.
    pub namespace: String,
    /// Of the claim.
    pub name: String,
    /// Of the claim.
    pub uid: String,
}

impl From<&Reference> for Claim {
    fn from(claim: &Reference) -> Self {
        Self { namespace: claim.namespace.clone(), name: claim.name.clone(), uid: claim.uid.clone() }
    }
}

/// Why claims can't be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server.
    #[error(transparent)]
    Kube(#[from] kube::Error),
    /// There is nothing to allocate.
    #[error("driver {0} has published no device")]
    NoDevice(String),
}

/// Makes `count` claims that are allocated to the driver's first device of its own, as the scheduler would write them.
pub async fn make(client: &Client, driver: &str, count: usize) -> Result<Vec<Reference>, Error> {
    let slices: Api<ResourceSlice> = Api::all(client.clone());
    let slices = slices.list(&ListParams::default().fields(&format!("spec.driver={driver}"))).await?;
    let device = slices.items.iter().find_map(|slice| {
        let alone = |device: &&Device| device.allow_multiple_allocations != Some(true);
        let device = slice.spec.devices.as_ref()?.iter().find(alone)?;
        Some((slice.spec.pool.name.clone(), device.name.clone()))
    });
    let (pool, device) = device.ok_or_else(|| Error::NoDevice(driver.to_owned()))?;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let label = [("resource.kubernetes.io/admin-access".to_owned(), "true".to_owned())].into();
    let namespace = Namespace {
        metadata: ObjectMeta { name: Some(NAMESPACE.to_owned()), labels: Some(label), ..ObjectMeta::default() },
        ..Namespace::default()
    };
    match namespaces.create(&PostParams::default(), &namespace).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => {}
        other => drop(other?),
    }
    let api: Api<ResourceClaim> = Api::namespaced(client.clone(), NAMESPACE);
    let mut made = Vec::with_capacity(count);
    for _ in 0..count {
        let claim = api.create(&PostParams::default(), &unallocated()).await?;
        let (name, uid) = (claim.metadata.name.unwrap_or_default(), claim.metadata.uid.unwrap_or_default());
        let status = serde_json::json!({ "status": allocated(driver, &pool, &device) });
        api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status)).await?;
        made.push(Reference { namespace: NAMESPACE.to_owned(), name, uid });
    }
    Ok(made)
}

fn unallocated() -> ResourceClaim {
    let exactly = ExactDeviceRequest {
        device_class_name: "gpu.aliquot.dev".to_owned(),
        admin_access: Some(true),
        ..ExactDeviceRequest::default()
    };
    let request = DeviceRequest { name: "gpu".to_owned(), exactly: Some(exactly), ..DeviceRequest::default() };
    let devices = DeviceClaim { requests: Some(vec![request]), ..DeviceClaim::default() };
    ResourceClaim {
        metadata: ObjectMeta { generate_name: Some("claim-".to_owned()), ..ObjectMeta::default() },
        spec: Some(ResourceClaimSpec { devices: Some(devices) }),
        status: None,
    }
}

fn allocated(driver: &str, pool: &str, device: &str) -> ResourceClaimStatus {
    let result = DeviceRequestAllocationResult {
        driver: driver.to_owned(),
        pool: pool.to_owned(),
        device: device.to_owned(),
        request: "gpu".to_owned(),
        admin_access: Some(true),
        ..DeviceRequestAllocationResult::default()
    };
    let devices = DeviceAllocationResult { results: Some(vec![result]), config: None };
    let allocation = AllocationResult { devices: Some(devices), ..AllocationResult::default() };
    ResourceClaimStatus { allocation: Some(allocation), ..ResourceClaimStatus::default() }
}
