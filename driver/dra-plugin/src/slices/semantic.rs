//! Whether two slices mean the same, however they are spelled.
use k8s_openapi::{
    api::resource::v1::{Device, DeviceTaint, ResourceSliceSpec},
    apimachinery::pkg::api::resource::Quantity,
};
use serde_json::Value;

use super::quantity::Amount;

/// Whether `stored` is what `desired` asks for, whatever the generations.
///
/// Quantities are compared by value, an empty list is no list, and a taint without a time in `desired` takes the time
/// that the API server gave it.
pub(super) fn is_same(desired: &ResourceSliceSpec, stored: &ResourceSliceSpec) -> bool {
    let devices = |spec: &ResourceSliceSpec| spec.devices.as_ref().map_or(0, Vec::len);
    devices(desired) == devices(stored)
        && parts(desired).zip(parts(stored)).all(|(mut desired, stored)| {
            keep_taint_times(&mut desired, &stored);
            canonical(desired) == canonical(stored)
        })
}

/// The spec without its devices and generation, then each device alone: the trees of one are small, and those of all would
/// be most of what this process ever needs.
fn parts(spec: &ResourceSliceSpec) -> impl Iterator<Item = ResourceSliceSpec> {
    let mut frame = spec.clone();
    frame.devices = None;
    frame.pool.generation = 0;
    let alone =
        |device: &Device| ResourceSliceSpec { devices: Some(vec![device.clone()]), ..ResourceSliceSpec::default() };
    std::iter::once(frame).chain(spec.devices.iter().flatten().map(alone))
}

/// Gives each desired taint without a time the time of the equal stored taint.
///
/// The API server sets `timeAdded` when it is left out; sent again without it, a taint would look newly added, and the
/// grace time of every pod that tolerates it for a while would start anew.
pub(super) fn keep_taint_times(desired: &mut ResourceSliceSpec, stored: &ResourceSliceSpec) {
    let stored = stored.devices.as_deref().unwrap_or_default();
    for device in desired.devices.iter_mut().flatten() {
        let Some(before) = stored.iter().find(|before| before.name == device.name) else { continue };
        let before = before.taints.as_deref().unwrap_or_default();
        for taint in device.taints.iter_mut().flatten().filter(|taint| taint.time_added.is_none()) {
            taint.time_added =
                before.iter().find(|known| is_same_taint(known, taint)).and_then(|known| known.time_added.clone());
        }
    }
}

fn is_same_taint(a: &DeviceTaint, b: &DeviceTaint) -> bool {
    let value = |taint: &DeviceTaint| taint.value.clone().unwrap_or_default();
    a.key == b.key && a.effect == b.effect && value(a) == value(b)
}

/// The one form of a spec that stands for all specs that mean the same.
///
/// It is a JSON tree rather than a typed spec, so that it covers fields of every Kubernetes version that this crate may
/// be built for.
pub(super) fn canonical(mut spec: ResourceSliceSpec) -> Value {
    unset_if_false(&mut spec.all_nodes);
    unset_if_false(&mut spec.per_device_node_selection);
    spec.devices.iter_mut().flatten().for_each(spell_device);
    for set in spec.shared_counters.iter_mut().flatten() {
        set.counters.values_mut().for_each(|counter| spell(&mut counter.value));
    }
    let mut tree = serde_json::to_value(spec).unwrap_or_default();
    prune(&mut tree);
    tree
}

fn spell_device(device: &mut Device) {
    unset_if_false(&mut device.all_nodes);
    unset_if_false(&mut device.allow_multiple_allocations);
    unset_if_false(&mut device.binds_to_node);
    for taint in device.taints.iter_mut().flatten() {
        taint.value.take_if(|value| value.is_empty());
    }
    for consumed in device.consumes_counters.iter_mut().flatten() {
        consumed.counters.values_mut().for_each(|counter| spell(&mut counter.value));
    }
    for capacity in device.capacity.iter_mut().flat_map(|all| all.values_mut()) {
        spell(&mut capacity.value);
        let Some(policy) = &mut capacity.request_policy else { continue };
        policy.default.iter_mut().chain(policy.valid_values.iter_mut().flatten()).for_each(spell);
        if let Some(range) = &mut policy.valid_range {
            [Some(&mut range.min), range.max.as_mut(), range.step.as_mut()].into_iter().flatten().for_each(spell);
        }
    }
}

fn unset_if_false(flag: &mut Option<bool>) {
    flag.take_if(|flag| !*flag);
}

/// Spells a quantity canonically; one that cannot be read stays as it is, for the API server to refuse.
fn spell(quantity: &mut Quantity) {
    if let Some(amount) = Amount::of(quantity) {
        *quantity = amount.canonical();
    }
}

/// Removes nulls and everything that is empty once they are gone; empty texts and `false` are values and stay.
fn prune(tree: &mut Value) {
    match tree {
        Value::Object(fields) => {
            fields.values_mut().for_each(prune);
            fields.retain(|_, field| !is_nothing(field));
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}

fn is_nothing(tree: &Value) -> bool {
    match tree {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{
        api::resource::v1::{CapacityRequestPolicy, CapacityRequestPolicyRange, DeviceAttribute, DeviceCapacity},
        apimachinery::pkg::apis::meta::v1::Time,
        jiff::Timestamp,
    };

    use super::*;
    use crate::slices::testing::device;

    fn slice(device: Device) -> ResourceSliceSpec {
        ResourceSliceSpec { devices: Some(vec![device]), ..ResourceSliceSpec::default() }
    }

    fn same(a: Device, b: Device) -> bool {
        is_same(&slice(a), &slice(b))
    }

    fn with_memory(value: &str, most: &str) -> Device {
        let range =
            CapacityRequestPolicyRange { max: Some(Quantity(most.into())), min: Quantity("0".into()), step: None };
        let policy = CapacityRequestPolicy { valid_range: Some(range), ..CapacityRequestPolicy::default() };
        let memory = DeviceCapacity { value: Quantity(value.into()), request_policy: Some(policy) };
        Device { capacity: Some([("memory".into(), memory)].into()), ..device("gpu") }
    }

    fn tainted(time: Option<&str>) -> Device {
        let taint = DeviceTaint {
            key: "example.com/unhealthy".into(),
            effect: "NoSchedule".into(),
            time_added: time.map(|time| Time(time.parse::<Timestamp>().unwrap())),
            ..DeviceTaint::default()
        };
        Device { taints: Some(vec![taint]), ..device("gpu") }
    }

    #[test]
    fn quantities_are_compared_by_value_wherever_they_stand() {
        assert!(same(with_memory("80Gi", "40Gi"), with_memory("81920Mi", "40960Mi")));
        assert!(!same(with_memory("80Gi", "40Gi"), with_memory("80G", "40Gi")));
        assert!(!same(with_memory("80Gi", "40Gi"), with_memory("80Gi", "40G")));
        assert!(same(with_memory("rubbish", "1"), with_memory("rubbish", "1")));
    }

    #[test]
    fn empty_is_the_same_as_absent_and_an_empty_text_is_not() {
        let empty = Device {
            attributes: Some([].into()),
            taints: Some(vec![]),
            allow_multiple_allocations: Some(false),
            ..device("gpu")
        };
        assert!(same(empty, device("gpu")));

        let attribute = |value: &str| DeviceAttribute { string: Some(value.into()), ..DeviceAttribute::default() };
        let with = |value| Device { attributes: Some([("a".into(), attribute(value))].into()), ..device("gpu") };
        assert!(!same(with(""), device("gpu")));
        let no = DeviceAttribute { bool: Some(false), ..DeviceAttribute::default() };
        assert!(!same(Device { attributes: Some([("a".into(), no)].into()), ..device("gpu") }, device("gpu")));
    }

    #[test]
    fn the_time_of_a_taint_counts_only_when_it_is_desired() {
        let (early, late) = (Some("2026-11-01T00:00:00Z"), Some("2026-11-02T00:00:00Z"));
        assert!(same(tainted(None), tainted(early)));
        assert!(same(tainted(early), tainted(early)));
        assert!(same(tainted(Some("2026-11-01T00:00:00.75Z")), tainted(early)), "the API keeps whole seconds");
        assert!(!same(tainted(late), tainted(early)));
        assert!(!same(tainted(None), device("gpu")), "the taint itself is missing");
    }

    #[test]
    fn the_order_of_devices_matters() {
        let both =
            |a, b| ResourceSliceSpec { devices: Some(vec![device(a), device(b)]), ..ResourceSliceSpec::default() };
        assert!(!is_same(&both("a", "b"), &both("b", "a")));
    }
}
