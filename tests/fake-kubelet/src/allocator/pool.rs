//! The devices that a node can reach, out of all published slices.
use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::resource::v1::{Device, ResourceSlice, ResourceSliceSpec};

use super::{
    DeviceId, Unallocatable,
    counters::{self, Counters},
    features::Features,
    in_use::InUse,
};

/// A device that a node can reach.
pub(super) struct Candidate<'a> {
    pub(super) id: DeviceId,
    pub(super) device: &'a Device,
    /// Whether only this node reaches it.
    pub(super) local: bool,
    /// What it draws on the pool's counters while it is allocated.
    pub(super) draws: Counters,
}

impl Candidate<'_> {
    pub(super) fn pool(&self) -> Pool {
        (self.id.driver.clone(), self.id.pool.clone())
    }
}

/// A pool's driver and name.
pub(super) type Pool = (String, String);

/// What a node can reach.
#[derive(Default)]
pub(super) struct Reachable<'a> {
    /// In the order in which they are tried: by driver, pool and slice, and as within the slice.
    pub(super) candidates: Vec<Candidate<'a>>,
    /// What devices in use, on any node, leave of each pool's counters.
    pub(super) counters: BTreeMap<Pool, Counters>,
    /// Pools of which slices are missing; their devices are no candidates.
    pub(super) incomplete: BTreeSet<Pool>,
    /// Pools whose slices contradict each other, and how; their devices are no candidates.
    pub(super) invalid: BTreeMap<Pool, String>,
}

impl Reachable<'_> {
    /// Whether no pool contradicts itself.
    pub(super) fn all_valid(&self) -> Result<(), Unallocatable> {
        match self.invalid.first_key_value() {
            None => Ok(()),
            Some(((driver, pool), reason)) => {
                Err(Unallocatable::Invalid { driver: driver.clone(), pool: pool.clone(), reason: reason.clone() })
            }
        }
    }
}

/// Of each pool only the newest generation counts, and only once all of its slices are there.
pub(super) fn reachable<'a>(
    slices: &'a [ResourceSlice],
    node: &str,
    features: Features,
    in_use: &InUse,
) -> Reachable<'a> {
    let mut pools = BTreeMap::<Pool, Vec<&'a ResourceSlice>>::new();
    for slice in slices {
        let spec = &slice.spec;
        pools.entry((spec.driver.clone(), spec.pool.name.clone())).or_default().push(slice);
    }
    let mut found = Reachable::default();
    for (pool, mut slices) in pools {
        let newest = slices.iter().map(|slice| slice.spec.pool.generation).max().unwrap_or_default();
        slices.retain(|slice| slice.spec.pool.generation == newest);
        slices.sort_by_key(|slice| slice.metadata.name.clone());
        let complete =
            slices.iter().all(|slice| i64::try_from(slices.len()) == Ok(slice.spec.pool.resource_slice_count));
        let specs: Vec<_> = slices.iter().map(|slice| &slice.spec).filter(|spec| known(spec, features)).collect();
        let devices: Vec<_> = specs.iter().flat_map(|spec| devices(spec, node)).collect();
        // Counters concern every node, as in Kubernetes 1.36, even where a pool has no devices for it.
        if devices.iter().all(|device| device.local.is_none()) && !specs.iter().any(|spec| has_counters(spec)) {
            continue;
        }
        if !complete {
            found.incomplete.insert(pool);
            continue;
        }
        match build(&specs, devices, features, in_use) {
            Ok((candidates, counters)) => {
                found.candidates.extend(candidates);
                found.counters.insert(pool, counters);
            }
            Err(reason) => drop(found.invalid.insert(pool, reason)),
        }
    }
    found
}

/// With the feature off, slices that only it gives a meaning to count for nothing but the pool's completeness.
fn known(slice: &ResourceSliceSpec, features: Features) -> bool {
    features.partitionable_devices || (slice.per_device_node_selection.is_none() && !has_counters(slice))
}

fn has_counters(slice: &ResourceSliceSpec) -> bool {
    slice.shared_counters.as_ref().is_some_and(|sets| !sets.is_empty())
}

/// A pool's device, and which nodes reach it: `Some(true)` only this one, `Some(false)` all, `None` others.
struct Published<'a> {
    id: DeviceId,
    device: &'a Device,
    local: Option<bool>,
}

fn devices<'a>(slice: &'a ResourceSliceSpec, node: &str) -> impl Iterator<Item = Published<'a>> {
    let per_device = slice.per_device_node_selection.unwrap_or_default();
    // A slice has counters or devices.
    let devices = slice.devices.iter().flatten().filter(|_| !has_counters(slice));
    devices.map(move |device| {
        let (named, all) =
            if per_device { (&device.node_name, device.all_nodes) } else { (&slice.node_name, slice.all_nodes) };
        let local = if named.as_deref() == Some(node) { Some(true) } else { (all == Some(true)).then_some(false) };
        let id = DeviceId { driver: slice.driver.clone(), pool: slice.pool.name.clone(), device: device.name.clone() };
        Published { id, device, local }
    })
}

fn build<'a>(
    slices: &[&ResourceSliceSpec],
    devices: Vec<Published<'a>>,
    features: Features,
    in_use: &InUse,
) -> Result<(Vec<Candidate<'a>>, Counters), String> {
    let mut left = counters::offered(slices.iter().copied())?;
    let offered = left.clone();
    let mut names = BTreeSet::new();
    let mut candidates = Vec::new();
    for Published { id, device, local } in devices {
        if !names.insert(&device.name) {
            return Err(format!("duplicate device name {}", device.name));
        }
        // With the feature off they are not looked at, only that there are some.
        let draws = if features.partitionable_devices { counters::drawn(device, &offered)? } else { Counters::new() };
        if in_use.any(&id) {
            counters::draw(&mut left, &draws);
        }
        candidates.extend(local.map(|local| Candidate { id, device, local, draws }));
    }
    Ok((candidates, left))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocator::fixtures::{NODE, gpu, slice};

    fn at_node(slices: &[ResourceSlice]) -> Reachable<'_> {
        reachable(slices, NODE, Features::default(), &InUse::default())
    }

    fn names(slices: &[ResourceSlice]) -> Vec<String> {
        at_node(slices).candidates.into_iter().map(|candidate| candidate.id.device).collect()
    }

    #[test]
    fn another_nodes_devices_are_out_of_reach() {
        let mut elsewhere = slice("b", vec![gpu("far", "H200", "141Gi")]);
        elsewhere.spec.pool.name = "other".to_owned();
        elsewhere.spec.node_name = Some("other".to_owned());
        assert_eq!(names(&[slice("a", vec![gpu("near", "H200", "141Gi")]), elsewhere]), ["near"]);
    }

    #[test]
    fn an_older_generation_does_not_count() {
        let mut newer = slice("b", vec![gpu("new", "H200", "141Gi")]);
        newer.spec.pool.generation += 1;
        assert_eq!(names(&[slice("a", vec![gpu("old", "H200", "141Gi")]), newer]), ["new"]);
    }

    #[test]
    fn a_pool_waits_for_all_of_its_slices() {
        let mut half = slice("a", vec![gpu("gpu-0", "H200", "141Gi")]);
        half.spec.pool.resource_slice_count = 2;
        let mut rest = slice("b", vec![gpu("gpu-1", "H200", "141Gi")]);
        rest.spec.pool.resource_slice_count = 2;
        assert_eq!(at_node(std::slice::from_ref(&half)).incomplete.len(), 1);
        assert_eq!(names(std::slice::from_ref(&half)), [""; 0]);
        assert_eq!(names(&[rest, half]), ["gpu-0", "gpu-1"]);
    }
}
