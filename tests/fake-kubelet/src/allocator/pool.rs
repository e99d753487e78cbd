//! The devices that a node can reach, out of all published slices.
use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::resource::v1::{Device, ResourceSlice, ResourceSliceSpec};

use super::DeviceId;

/// A device that a node can reach.
pub(super) struct Candidate<'a> {
    pub(super) id: DeviceId,
    pub(super) device: &'a Device,
    /// Whether only this node reaches it.
    pub(super) local: bool,
}

/// A pool's driver and name.
type Pool = (String, String);

/// What a node can reach.
pub(super) struct Reachable<'a> {
    /// In the order in which they are tried: by driver, pool and slice, and as within the slice.
    pub(super) candidates: Vec<Candidate<'a>>,
    /// Pools of which slices are missing; their devices are no candidates.
    pub(super) incomplete: BTreeSet<Pool>,
}

/// Of each pool only the newest generation counts, and only once all of its slices are there.
pub(super) fn reachable<'a>(slices: &'a [ResourceSlice], node: &str) -> Reachable<'a> {
    let mut pools = BTreeMap::<Pool, Vec<&'a ResourceSlice>>::new();
    for slice in slices {
        let spec = &slice.spec;
        pools.entry((spec.driver.clone(), spec.pool.name.clone())).or_default().push(slice);
    }
    let mut found = Reachable { candidates: Vec::new(), incomplete: BTreeSet::new() };
    for (pool, mut slices) in pools {
        let newest = slices.iter().map(|slice| slice.spec.pool.generation).max().unwrap_or_default();
        slices.retain(|slice| slice.spec.pool.generation == newest);
        slices.sort_by_key(|slice| slice.metadata.name.clone());
        let devices = slices.iter().flat_map(|slice| devices(&slice.spec, node));
        let complete =
            slices.iter().all(|slice| i64::try_from(slices.len()) == Ok(slice.spec.pool.resource_slice_count));
        if complete {
            found.candidates.extend(devices);
        } else if devices.count() > 0 {
            found.incomplete.insert(pool);
        }
    }
    found
}

fn devices<'a>(slice: &'a ResourceSliceSpec, node: &str) -> impl Iterator<Item = Candidate<'a>> {
    let per_device = slice.per_device_node_selection.unwrap_or_default();
    slice.devices.iter().flatten().filter_map(move |device| {
        let (named, all) =
            if per_device { (&device.node_name, device.all_nodes) } else { (&slice.node_name, slice.all_nodes) };
        let local = named.as_deref() == Some(node);
        let id = DeviceId { driver: slice.driver.clone(), pool: slice.pool.name.clone(), device: device.name.clone() };
        (local || all == Some(true)).then_some(Candidate { id, device, local })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocator::fixtures::{NODE, gpu, slice};

    fn names(slices: &[ResourceSlice]) -> Vec<String> {
        reachable(slices, NODE).candidates.into_iter().map(|candidate| candidate.id.device).collect()
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
        assert_eq!(reachable(std::slice::from_ref(&half), NODE).incomplete.len(), 1);
        assert_eq!(names(std::slice::from_ref(&half)), [""; 0]);
        assert_eq!(names(&[rest, half]), ["gpu-0", "gpu-1"]);
    }
}
