//! What allocated claims hold.
use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::resource::v1::{AllocationResult, DeviceRequestAllocationResult, ResourceClaim};

use super::{
    DeviceId,
    quantity::{NotAQuantity, Quantity},
};

/// How much of each capacity of a device is taken.
pub(super) type Used = BTreeMap<String, Quantity>;

/// The devices that claims keep others from, in whole or in part. What administrators have keeps nobody from anything.
#[derive(Debug, Clone, Default)]
pub struct InUse {
    whole: BTreeSet<DeviceId>,
    shared: BTreeMap<DeviceId, Used>,
}

impl InUse {
    /// What these claims hold.
    pub fn by<'a>(claims: impl IntoIterator<Item = &'a ResourceClaim>) -> Result<Self, NotAQuantity> {
        let mut in_use = Self::default();
        for allocation in claims.into_iter().filter_map(|claim| claim.status.as_ref()?.allocation.as_ref()) {
            in_use.add(allocation)?;
        }
        Ok(in_use)
    }

    /// One more claim is allocated.
    pub fn add(&mut self, allocation: &AllocationResult) -> Result<(), NotAQuantity> {
        let results = allocation.devices.iter().flat_map(|devices| devices.results.iter().flatten());
        for result in results.filter(|result| result.admin_access != Some(true)) {
            if result.share_id.is_none() {
                self.whole.insert(id(result));
                continue;
            }
            // A share that consumes nothing is a use too.
            let used = self.shared.entry(id(result)).or_default();
            for (name, amount) in result.consumed_capacity.iter().flatten() {
                let total = used.entry(name.clone()).or_insert(Quantity::ZERO);
                *total = *total + Quantity::try_from(amount)?;
            }
        }
        Ok(())
    }

    /// Whether a claim has all of a device.
    pub(super) fn whole(&self, device: &DeviceId) -> bool {
        self.whole.contains(device)
    }

    /// What shares of a device take, if there are any.
    pub(super) fn shared(&self, device: &DeviceId) -> Option<&Used> {
        self.shared.get(device)
    }

    /// Whether any claim has a device, or a share of it.
    pub(super) fn any(&self, device: &DeviceId) -> bool {
        self.whole(device) || self.shared.contains_key(device)
    }
}

fn id(result: &DeviceRequestAllocationResult) -> DeviceId {
    DeviceId { driver: result.driver.clone(), pool: result.pool.clone(), device: result.device.clone() }
}
