//! What the scheduler knows of a cluster while it schedules one pod.
use k8s_openapi::api::resource::v1::{AllocationResult, DeviceClass, ResourceClaim, ResourceSlice};
use kube::{Api, Client, api::ListParams};

use super::{
    Cluster, Features, InUse, ScheduleError, allocate,
    identity::{Identity, reaches},
    templates,
};

/// All that is stored, and what is in use, with what the pod's earlier claims are about to get.
pub(super) struct State {
    pub(super) classes: Vec<DeviceClass>,
    pub(super) claims: Vec<ResourceClaim>,
    slices: Vec<ResourceSlice>,
    in_use: InUse,
}

impl State {
    pub(super) async fn read(client: &Client) -> Result<Self, ScheduleError> {
        let all = ListParams::default();
        let slices = Api::<ResourceSlice>::all(client.clone()).list(&all).await?.items;
        let classes = Api::<DeviceClass>::all(client.clone()).list(&all).await?.items;
        let claims = Api::<ResourceClaim>::all(client.clone()).list(&all).await?.items;
        Ok(Self { in_use: InUse::by(&claims)?, classes, claims, slices })
    }

    /// A claim's allocation: the one that it has, or a new one.
    pub(super) fn allocation(
        &mut self,
        pod: &Identity,
        claim: &ResourceClaim,
        node: &str,
        features: Features,
    ) -> Result<AllocationResult, ScheduleError> {
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        if templates::made(claim) && !pod.owns(&claim.metadata) {
            return Err(ScheduleError::NotOwner(name.to_owned()));
        }
        if let Some(allocation) = claim.status.as_ref().and_then(|status| status.allocation.as_ref()) {
            if reaches(allocation, node) {
                return Ok(allocation.clone());
            }
            return Err(ScheduleError::Elsewhere(name.to_owned()));
        }
        let Self { slices, classes, in_use, .. } = &*self;
        let allocated = allocate(claim, Cluster { slices, classes, in_use, node, features });
        let allocation = allocated.map_err(|source| ScheduleError::Unallocatable { claim: name.to_owned(), source })?;
        self.in_use.add(&allocation)?;
        Ok(allocation)
    }
}
