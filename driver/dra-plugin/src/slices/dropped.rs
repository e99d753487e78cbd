//! Tells which parts of a slice the API server did not store.
//!
//! A field behind a feature gate that is off is dropped without a word. A device that asked to be shared is then
//! exclusive, so a driver has to know.
use std::collections::BTreeMap;

use k8s_openapi::api::resource::v1::ResourceSliceSpec;
use serde_json::Value;

use super::semantic;

/// A feature of the API server that slices may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Feature {
    /// Several claims on one device, with a share of its capacity each (KEP-5075).
    ConsumableCapacity,
    /// Devices that draw on shared counters (KEP-4815).
    PartitionableDevices,
    /// Taints on devices (KEP-5055).
    DeviceTaints,
    /// Conditions that hold a pod back until its device is ready (KEP-5007).
    BindingConditions,
    /// Attributes that are lists (KEP-5491).
    ListAttributes,
    /// Something else: a newer feature, or a webhook that changes slices.
    Other,
}

impl Feature {
    /// The feature gate of the API server that has to be on; none where it is not known.
    pub fn gate(self) -> Option<&'static str> {
        match self {
            Self::ConsumableCapacity => Some("DRAConsumableCapacity"),
            Self::PartitionableDevices => Some("DRAPartitionableDevices"),
            Self::DeviceTaints => Some("DRADeviceTaints"),
            Self::BindingConditions => Some("DRADeviceBindingConditions"),
            Self::ListAttributes => Some("DRAListTypeAttributes"),
            Self::Other => None,
        }
    }

    fn of(field: &str) -> Self {
        let names = |part: &str| field.split('.').any(|name| name.trim_end_matches("[]") == part);
        match () {
            () if names("allowMultipleAllocations") || names("requestPolicy") => Self::ConsumableCapacity,
            () if names("consumesCounters") || names("sharedCounters") || names("perDeviceNodeSelection") => {
                Self::PartitionableDevices
            }
            () if names("taints") => Self::DeviceTaints,
            () if names("bindingConditions") || names("bindingFailureConditions") || names("bindsToNode") => {
                Self::BindingConditions
            }
            () if names("attributes") && ["bools", "ints", "strings", "versions"].into_iter().any(names) => {
                Self::ListAttributes
            }
            () => Self::Other,
        }
    }
}

/// A field of a slice that was not stored as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DroppedField {
    /// Where it stands in the slice's spec, such as `devices[].allowMultipleAllocations`.
    pub field: String,
    /// The names of the devices and counter sets that lost it, sorted.
    pub of: Vec<String>,
    /// What the API server would need for it.
    pub feature: Feature,
}

impl std::fmt::Display for DroppedField {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.field)?;
        if let Some(first) = self.of.first() {
            write!(f, " of {first}")?;
        }
        if self.of.len() > 1 {
            write!(f, " and {} more", self.of.len() - 1)?;
        }
        match self.feature.gate() {
            Some(gate) => write!(f, " (feature gate {gate} is off)"),
            None => Ok(()),
        }
    }
}

/// Collects dropped fields over all slices of a pool.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Dropped(BTreeMap<String, Vec<String>>);

impl Dropped {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds what `stored` lacks of `sent`. The pool's generation and count are not looked at.
    pub(super) fn compare(&mut self, sent: &ResourceSliceSpec, stored: &ResourceSliceSpec) {
        if semantic::is_same(sent, stored) {
            return;
        }
        let mut sent = sent.clone();
        semantic::keep_taint_times(&mut sent, stored);
        sent.pool = stored.pool.clone();
        self.walk(&semantic::canonical(sent), &semantic::canonical(stored.clone()), "", "");
    }

    pub(super) fn fields(&self) -> Vec<DroppedField> {
        let field = |(field, of): (&String, &Vec<String>)| DroppedField {
            field: field.clone(),
            of: of.clone(),
            feature: Feature::of(field),
        };
        self.0.iter().map(field).collect()
    }

    /// Compares two trees at `path`; `of` is the device or counter set to which they belong.
    fn walk(&mut self, sent: &Value, stored: &Value, path: &str, of: &str) {
        match (sent, stored) {
            (Value::Object(sent), Value::Object(stored)) => {
                for (key, sent) in sent {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    match stored.get(key) {
                        Some(stored) => self.walk(sent, stored, &path, of),
                        None => self.add(path, sent, of),
                    }
                }
            }
            (Value::Array(sent), Value::Array(stored)) => {
                let path = format!("{path}[]");
                for (at, sent) in sent.iter().enumerate() {
                    let name = name(sent);
                    let of = name.filter(|_| of.is_empty()).unwrap_or(of);
                    let stored = match name {
                        Some(_) => stored.iter().find(|stored| self::name(stored) == name),
                        None => stored.get(at),
                    };
                    match stored {
                        Some(stored) => self.walk(sent, stored, &path, of),
                        None => self.add(path.clone(), sent, of),
                    }
                }
            }
            _ if sent == stored => {}
            _ => self.add(path.to_owned(), sent, of),
        }
    }

    /// Notes `path` as lost, by `of` or, where a whole list of named things is lost, by each of these.
    fn add(&mut self, path: String, lost: &Value, of: &str) {
        let names: Vec<String> = match lost {
            Value::Array(items) if of.is_empty() => items.iter().filter_map(name).map(str::to_owned).collect(),
            _ => Some(of.to_owned()).filter(|of| !of.is_empty()).into_iter().collect(),
        };
        let known = self.0.entry(path).or_default();
        known.extend(names);
        known.sort();
        known.dedup();
    }
}

fn name(tree: &Value) -> Option<&str> {
    tree.get("name")?.as_str()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::resource::v1::{
        CapacityRequestPolicy, CounterSet, Device, DeviceAttribute, DeviceCapacity, DeviceCounterConsumption,
        DeviceTaint,
    };

    use super::*;
    use crate::slices::testing::device;

    fn slice(devices: Vec<Device>) -> ResourceSliceSpec {
        ResourceSliceSpec { devices: Some(devices), ..ResourceSliceSpec::default() }
    }

    fn dropped(sent: &ResourceSliceSpec, stored: &ResourceSliceSpec) -> Vec<DroppedField> {
        let mut dropped = Dropped::default();
        dropped.compare(sent, stored);
        dropped.fields()
    }

    #[test]
    fn each_gated_field_is_named_with_its_gate() {
        let list = DeviceAttribute { strings: Some(vec!["a".into()]), ..DeviceAttribute::default() };
        let cases: [(Device, &str, &str); 5] = [
            (
                Device { allow_multiple_allocations: Some(true), ..device("gpu") },
                "devices[].allowMultipleAllocations",
                "DRAConsumableCapacity",
            ),
            (
                Device { taints: Some(vec![DeviceTaint::default()]), ..device("gpu") },
                "devices[].taints",
                "DRADeviceTaints",
            ),
            (
                Device { consumes_counters: Some(vec![DeviceCounterConsumption::default()]), ..device("gpu") },
                "devices[].consumesCounters",
                "DRAPartitionableDevices",
            ),
            (
                Device { binding_conditions: Some(vec!["ready".into()]), ..device("gpu") },
                "devices[].bindingConditions",
                "DRADeviceBindingConditions",
            ),
            (
                Device { attributes: Some([("l".into(), list)].into()), ..device("gpu") },
                "devices[].attributes",
                "DRAListTypeAttributes",
            ),
        ];
        for (sent, field, gate) in cases {
            let fields = dropped(&slice(vec![sent]), &slice(vec![device("gpu")]));
            assert_eq!(fields.len(), 1, "{fields:?}");
            assert_eq!((fields[0].field.as_str(), fields[0].of.as_slice()), (field, &["gpu".to_owned()][..]));
            if field != "devices[].attributes" {
                assert_eq!(fields[0].feature.gate(), Some(gate));
            }
        }
    }

    #[test]
    fn a_dropped_policy_is_named_below_its_capacity() {
        let with = |policy: Option<CapacityRequestPolicy>| {
            let memory = DeviceCapacity { request_policy: policy, ..DeviceCapacity::default() };
            Device { capacity: Some([("memory".into(), memory)].into()), ..device("gpu") }
        };
        let policy = CapacityRequestPolicy {
            default: Some(k8s_openapi::apimachinery::pkg::api::resource::Quantity::default()),
            ..CapacityRequestPolicy::default()
        };
        let fields = dropped(&slice(vec![with(Some(policy))]), &slice(vec![with(None)]));
        assert_eq!(fields[0].field, "devices[].capacity.memory.requestPolicy");
        assert_eq!(fields[0].feature, Feature::ConsumableCapacity);
    }

    #[test]
    fn lost_counter_sets_are_listed_by_name() {
        let counters = |name: &str| CounterSet { name: name.into(), ..CounterSet::default() };
        let sent = ResourceSliceSpec {
            shared_counters: Some(vec![counters("b"), counters("a")]),
            ..ResourceSliceSpec::default()
        };
        let fields = dropped(&sent, &ResourceSliceSpec::default());
        assert_eq!(fields[0].of, ["a", "b"]);
        assert_eq!(fields[0].feature, Feature::PartitionableDevices);
        assert_eq!(
            fields[0].to_string(),
            "sharedCounters of a and 1 more (feature gate DRAPartitionableDevices is off)"
        );
    }

    #[test]
    fn what_the_server_adds_or_respells_is_not_dropped() {
        let mut sent = slice(vec![Device { taints: Some(vec![DeviceTaint::default()]), ..device("gpu") }]);
        sent.pool.generation = 7;
        let mut stored = sent.clone();
        stored.pool.generation = 9;
        stored.devices.as_mut().unwrap()[0].taints.as_mut().unwrap()[0].time_added =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time("2026-11-01T00:00:00Z".parse().unwrap()));
        assert!(dropped(&sent, &stored).is_empty());
    }

    #[test]
    fn a_value_that_was_changed_on_the_way_counts_as_dropped() {
        let with = |value: &str| {
            let attribute = DeviceAttribute { string: Some(value.into()), ..DeviceAttribute::default() };
            slice(vec![Device { attributes: Some([("a".into(), attribute)].into()), ..device("gpu") }])
        };
        let fields = dropped(&with("ours"), &with("theirs"));
        assert_eq!((fields[0].field.as_str(), fields[0].feature), ("devices[].attributes.a.string", Feature::Other));
    }
}
