//! One GPU as the devices that can be allocated of it.
use std::collections::BTreeMap;

use aliquot_model::{DeviceName, Gpu, Memory, Part, Vfio};
use aliquot_params::policy::Shares;
use k8s_openapi::{
    api::resource::v1::{
        CapacityRequestPolicy, CapacityRequestPolicyRange, Counter, CounterSet, Device, DeviceCapacity,
        DeviceCounterConsumption,
    },
    apimachinery::pkg::api::resource::Quantity,
};

use super::attributes;

/// The counter of a GPU's set: one of it is there, and every device of the GPU takes it.
const WHOLE: &str = "whole";

/// The set on which a GPU's devices draw, so that only one of them is ever in use.
pub(super) fn counter_set(gpu: &Gpu) -> CounterSet {
    CounterSet { name: gpu.whole_name().to_string(), counters: BTreeMap::from([(WHOLE.to_owned(), one())]) }
}

/// All of the GPU for one claim.
pub(super) fn whole(gpu: &Gpu, draws: bool) -> Device {
    Device {
        name: gpu.whole_name().to_string(),
        attributes: Some(attributes::of_whole(gpu)),
        capacity: Some(attributes::capacity(gpu)),
        consumes_counters: draws.then(|| consumption(gpu)),
        ..Device::default()
    }
}

/// All of the GPU for claims with admin access.
///
/// Kubernetes 1.36 wants free counters even for these (kubernetes/kubernetes#140729), so that a monitor could not look
/// at a GPU in use; this device draws on none. Whoever has no admin access doesn't get it prepared.
pub(super) fn admin(gpu: &Gpu) -> Device {
    Device {
        name: DeviceName::of(gpu.pci, Part::Admin).to_string(),
        attributes: Some(attributes::of_admin(gpu)),
        capacity: Some(attributes::capacity(gpu)),
        ..Device::default()
    }
}

/// The GPUs of an IOMMU group for a virtual machine, beside other forms of these GPUs.
pub(super) fn vfio(vfio: &Vfio, beside: &[&Gpu]) -> Device {
    let consumption: Vec<DeviceCounterConsumption> = beside.iter().flat_map(|gpu| consumption(gpu)).collect();
    Device {
        name: vfio.name().to_string(),
        attributes: Some(attributes::of_vfio(vfio)),
        capacity: Some(attributes::capacity_of_vfio(vfio)),
        consumes_counters: (!consumption.is_empty()).then_some(consumption),
        ..Device::default()
    }
}

/// The GPU for several claims, each with a part of its capacity.
///
/// A capacity without a policy would be consumed in full by the first claim (KEP-5075), hence each has one.
pub(super) fn shared(gpu: &Gpu, shares: &Shares, draws: bool) -> Device {
    let count = capacity(shares.count.to_string(), "1".to_owned(), "1".to_owned(), "1".to_owned());
    let mut capacities = BTreeMap::from([("shares".to_owned(), count)]);
    // A GPU that shares the host's memory has none to divide.
    if shares.memory.bytes() > 0 {
        let step = Memory::MEBIBYTE.to_string();
        let memory = capacity(shares.memory.to_string(), shares.default.to_string(), shares.minimum.to_string(), step);
        capacities.insert("memory".to_owned(), memory);
    }
    Device {
        name: DeviceName::of(gpu.pci, Part::Shared).to_string(),
        attributes: Some(attributes::of_share(gpu, shares)),
        capacity: Some(capacities),
        allow_multiple_allocations: Some(true),
        consumes_counters: draws.then(|| consumption(gpu)),
        ..Device::default()
    }
}

/// One of a fixed number of shares.
pub(super) fn slot(gpu: &Gpu, number: u16, shares: &Shares) -> Device {
    let memory = slot_memory(shares);
    let capacity = DeviceCapacity { value: Quantity(memory.to_string()), request_policy: None };
    Device {
        name: DeviceName::of(gpu.pci, Part::Slot(number)).to_string(),
        attributes: Some(attributes::of_share(gpu, shares)),
        capacity: (memory.bytes() > 0).then(|| BTreeMap::from([("memory".to_owned(), capacity)])),
        ..Device::default()
    }
}

/// The memory of one of a fixed number of shares: the policy's, or less where that many don't fit.
pub(crate) fn slot_memory(shares: &Shares) -> Memory {
    shares.default.min(shares.memory.part(shares.count))
}

fn consumption(gpu: &Gpu) -> Vec<DeviceCounterConsumption> {
    vec![DeviceCounterConsumption {
        counter_set: gpu.whole_name().to_string(),
        counters: BTreeMap::from([(WHOLE.to_owned(), one())]),
        ..DeviceCounterConsumption::default()
    }]
}

fn one() -> Counter {
    Counter { value: Quantity("1".to_owned()) }
}

fn capacity(value: String, default: String, min: String, step: String) -> DeviceCapacity {
    let range = CapacityRequestPolicyRange {
        min: Quantity(min),
        max: Some(Quantity(value.clone())),
        step: Some(Quantity(step)),
    };
    let policy = CapacityRequestPolicy {
        default: Some(Quantity(default)),
        valid_range: Some(range),
        ..CapacityRequestPolicy::default()
    };
    DeviceCapacity { value: Quantity(value), request_policy: Some(policy) }
}
