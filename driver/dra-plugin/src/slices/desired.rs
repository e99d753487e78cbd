//! Lays a pool out on slices, within the limits that the API sets for one slice.
use k8s_openapi::api::resource::v1::{Device, ResourcePool, ResourceSliceSpec};

use super::pool::{NodeName, Pool};
use crate::name::DriverName;

/// Most devices in one slice (`ResourceSliceMaxDevices`).
const MOST_DEVICES: usize = 128;
/// Most devices in a slice where any of them costs more to read (`ResourceSliceMaxDevicesWithTaintsOrConsumesCounters`).
const MOST_COSTLY_DEVICES: usize = 64;
/// Most counter sets in one slice (`ResourceSliceMaxCounterSets`).
const MOST_COUNTER_SETS: usize = 8;

/// The slices that should be, in their order; the generation is left at zero.
///
/// Counter sets come first and in slices of their own, as a slice holds either them or devices since Kubernetes 1.35.
/// A pool with nothing in it is one slice.
pub(super) fn slices(driver: &DriverName, node: &NodeName, pool: &Pool) -> Vec<ResourceSliceSpec> {
    let empty = || ResourceSliceSpec {
        driver: driver.as_str().to_owned(),
        node_name: Some(node.as_str().to_owned()),
        pool: ResourcePool { name: pool.name.as_str().to_owned(), ..ResourcePool::default() },
        ..ResourceSliceSpec::default()
    };
    let counters = pool
        .counters
        .chunks(MOST_COUNTER_SETS)
        .map(|sets| ResourceSliceSpec { shared_counters: Some(sets.to_vec()), ..empty() });
    let devices = split(&pool.devices)
        .into_iter()
        .map(|devices| ResourceSliceSpec { devices: Some(devices.to_vec()), ..empty() });
    let mut slices: Vec<_> = counters.chain(devices).collect();
    if slices.is_empty() {
        slices.push(empty());
    }
    let count = i64::try_from(slices.len()).unwrap_or(i64::MAX);
    for slice in &mut slices {
        slice.pool.resource_slice_count = count;
    }
    slices
}

/// Cuts the devices into runs that each fit into one slice, keeping their order.
fn split(devices: &[Device]) -> Vec<&[Device]> {
    let mut runs = Vec::new();
    let (mut start, mut costly) = (0, false);
    for (at, device) in devices.iter().enumerate() {
        let costly_with = costly || is_costly(device);
        let most = if costly_with { MOST_COSTLY_DEVICES } else { MOST_DEVICES };
        if at - start >= most {
            runs.push(&devices[start..at]);
            (start, costly) = (at, is_costly(device));
        } else {
            costly = costly_with;
        }
    }
    if start < devices.len() {
        runs.push(&devices[start..]);
    }
    runs
}

/// Whether the device brings its slice under the lower limit: taints, consumed counters or list attributes.
fn is_costly(device: &Device) -> bool {
    let some = |len: Option<usize>| len.is_some_and(|len| len > 0);
    some(device.taints.as_ref().map(Vec::len))
        || some(device.consumes_counters.as_ref().map(Vec::len))
        || device.attributes.iter().flat_map(|all| all.values()).any(super::validate::is_list)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::resource::v1::{CounterSet, DeviceAttribute, DeviceCounterConsumption, DeviceTaint};
    use proptest::prelude::*;

    use super::*;
    use crate::slices::{PoolName, testing};

    fn lay_out(devices: Vec<Device>, counters: Vec<CounterSet>) -> Vec<ResourceSliceSpec> {
        let pool = Pool { devices, counters, ..Pool::empty(PoolName::new("pool").unwrap()) };
        slices(&testing::driver(), &testing::node(), &pool)
    }

    fn sizes(slices: &[ResourceSliceSpec]) -> Vec<(usize, usize)> {
        let len = |slice: &ResourceSliceSpec| {
            (slice.shared_counters.as_ref().map_or(0, Vec::len), slice.devices.as_ref().map_or(0, Vec::len))
        };
        slices.iter().map(len).collect()
    }

    fn devices(count: usize) -> Vec<Device> {
        (0..count).map(|i| testing::device(&format!("gpu-{i}"))).collect()
    }

    #[test]
    fn an_empty_pool_is_one_slice_without_devices() {
        let slices = lay_out(vec![], vec![]);
        assert_eq!(sizes(&slices), [(0, 0)]);
        assert_eq!(slices[0].pool.resource_slice_count, 1);
    }

    #[test]
    fn plain_devices_fill_slices_of_128() {
        assert_eq!(sizes(&lay_out(devices(128), vec![])), [(0, 128)]);
        assert_eq!(sizes(&lay_out(devices(129), vec![])), [(0, 128), (0, 1)]);
    }

    #[test]
    fn one_costly_device_brings_its_slice_down_to_64() {
        let costly: [fn(&mut Device); 3] = [
            |device| device.taints = Some(vec![DeviceTaint::default()]),
            |device| device.consumes_counters = Some(vec![DeviceCounterConsumption::default()]),
            |device| {
                let list = DeviceAttribute { strings: Some(vec!["a".into()]), ..DeviceAttribute::default() };
                device.attributes = Some([("list".to_owned(), list)].into());
            },
        ];
        for make_costly in costly {
            let mut all = devices(65);
            make_costly(&mut all[0]);
            assert_eq!(sizes(&lay_out(all, vec![])), [(0, 64), (0, 1)]);

            let mut all = devices(100);
            make_costly(&mut all[99]);
            assert_eq!(sizes(&lay_out(all, vec![])), [(0, 99), (0, 1)]);
        }
    }

    #[test]
    fn counter_sets_come_first_and_eight_to_a_slice() {
        let slices = lay_out(devices(3), vec![CounterSet::default(); 9]);
        assert_eq!(sizes(&slices), [(8, 0), (1, 0), (0, 3)]);
        assert!(slices.iter().all(|slice| slice.pool.resource_slice_count == 3));
    }

    proptest! {
        #[test]
        fn splitting_loses_nothing_keeps_the_order_and_keeps_the_limits(
            costly in proptest::collection::vec(proptest::bool::weighted(0.02), 0..400), sets in 0usize..30,
        ) {
            let mut all = devices(costly.len());
            for (device, _) in all.iter_mut().zip(&costly).filter(|(_, costly)| **costly) {
                device.taints = Some(vec![DeviceTaint::default()]);
            }
            let counters: Vec<_> = (0..sets).map(|i| CounterSet { name: format!("set-{i}"), ..CounterSet::default() }).collect();
            let slices = lay_out(all.clone(), counters.clone());

            let laid: Vec<_> = slices.iter().flat_map(|slice| slice.devices.clone().unwrap_or_default()).collect();
            prop_assert_eq!(laid, all);
            let laid: Vec<_> = slices.iter().flat_map(|slice| slice.shared_counters.clone().unwrap_or_default()).collect();
            prop_assert_eq!(laid, counters);
            for slice in &slices {
                let devices = slice.devices.as_deref().unwrap_or_default();
                let sets = slice.shared_counters.as_ref().map_or(0, Vec::len);
                let most = if devices.iter().any(is_costly) { 64 } else { 128 };
                prop_assert!(devices.len() <= most);
                prop_assert!(sets <= 8 && (sets == 0 || devices.is_empty()));
            }
        }
    }
}
