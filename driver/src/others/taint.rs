//! Marks what is offered of GPUs that others hand out too. Pure.
use aliquot_model::{DeviceName, Inventory, Part};
use dra_plugin::slices::{DroppedField, Feature};
use k8s_openapi::api::resource::v1::{Device, DeviceTaint};

use super::judge::{Elsewhere, Other};
use crate::{args::OtherPlugins, offer::Offered};

/// Longest value of a label, and so of a taint.
const LONGEST_VALUE: usize = 63;

/// Whether the API server stores taints (KEP-5055, feature gate `DRADeviceTaints`); until it is known not to, it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Storage {
    /// A tainted device says so.
    #[default]
    Kept,
    /// A tainted device would be there for everybody.
    Dropped,
}

impl Storage {
    /// Takes what was lost of what was published. It stays lost as long as there are taints to publish: each try would
    /// offer the devices to everybody for a moment.
    pub(crate) fn learn(&mut self, dropped: &[DroppedField]) {
        if dropped.iter().any(|field| field.feature == Feature::DeviceTaints) {
            *self = Self::Dropped;
        }
    }
}

/// How devices are marked.
#[derive(Debug, Clone)]
pub(crate) struct Mark {
    key: String,
    mode: OtherPlugins,
}

impl Mark {
    /// For the driver of this name.
    pub(crate) fn new(driver: &str, mode: OtherPlugins) -> Self {
        Self { key: format!("{driver}/handed-out-elsewhere"), mode }
    }

    /// The taint's key.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// What is offered of GPUs that others hand out gets a taint, or is left out where taints are not stored. Devices for
    /// administration stay as they are: whoever only looks takes nothing from anybody.
    pub(crate) fn put(&self, offered: &mut Offered, inventory: &Inventory, elsewhere: &Elsewhere, storage: Storage) {
        if self.mode != OtherPlugins::Taint {
            return;
        }
        let other = |device: &Device| {
            let (gpu, part) = inventory.device(&device.name.parse::<DeviceName>().ok()?)?;
            let others = elsewhere.gpus.get(&gpu.uuid).filter(|_| part != Part::Admin)?;
            others.by.first()
        };
        if storage == Storage::Dropped {
            offered.devices.retain(|device| other(device).is_none());
            let names = |device: &Device, set: &str| {
                device.consumes_counters.iter().flatten().any(|consumed| consumed.counter_set == set)
            };
            offered.counters.retain(|set| offered.devices.iter().any(|device| names(device, &set.name)));
            return;
        }
        for device in &mut offered.devices {
            if let Some(other) = other(device) {
                let taint = DeviceTaint {
                    key: self.key.clone(),
                    value: Some(value(other)),
                    effect: "NoSchedule".to_owned(),
                    ..DeviceTaint::default()
                };
                device.taints.get_or_insert_default().push(taint);
            }
        }
    }
}

/// A resource or driver as a label's value, in which there is no `/`.
fn value(other: &Other) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let text: String = other.name().chars().map(|c| if is_plain(c) { c } else { '_' }).take(LONGEST_VALUE).collect();
    text.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use aliquot_model::testing::gpu;
    use aliquot_params::policy::Policy;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        offer::{self, Layout},
        others::judge::{Others, tests::plugin},
    };

    fn elsewhere(bus: u8, by: Other) -> Elsewhere {
        let others = Others { by: BTreeSet::from([by]), ..Others::default() };
        Elsewhere { gpus: BTreeMap::from([(gpu(bus).uuid, others)]), ..Elsewhere::default() }
    }

    fn marked(mode: OtherPlugins, storage: Storage) -> Offered {
        let inventory = Inventory::new(vec![gpu(0), gpu(1)], vec![]);
        let mut offered = offer::offered(&inventory, &Policy::default(), &[], Layout::Counters);
        let mark = Mark::new("d.example.com", mode);
        mark.put(&mut offered, &inventory, &elsewhere(1, plugin("nvidia.com/gpu")), storage);
        offered
    }

    fn tainted(offered: &Offered) -> BTreeSet<&str> {
        let devices = offered.devices.iter().filter(|device| device.taints.is_some());
        devices.map(|device| device.name.as_str()).collect()
    }

    #[test]
    fn a_gpu_and_its_shares_are_tainted_and_those_who_look_after_it_are_not_kept_out() {
        let offered = marked(OtherPlugins::Taint, Storage::Kept);
        assert_eq!(tainted(&offered), BTreeSet::from(["gpu-0000-01-00", "gpu-0000-01-00-shared"]));
        let taint = offered.devices.iter().find_map(|device| device.taints.as_ref()?.first()).unwrap();
        let expected = ("d.example.com/handed-out-elsewhere", Some("nvidia.com_gpu"), "NoSchedule");
        assert_eq!((taint.key.as_str(), taint.value.as_deref(), taint.effect.as_str()), expected);
    }

    #[test]
    fn where_taints_are_lost_the_gpu_is_not_offered_but_to_those_who_look_after_it() {
        let offered = marked(OtherPlugins::Taint, Storage::Dropped);
        let names: BTreeSet<&str> = offered.devices.iter().map(|device| device.name.as_str()).collect();
        let others = ["gpu-0000-00-00", "gpu-0000-00-00-shared", "gpu-0000-00-00-admin"];
        assert_eq!(names, others.into_iter().chain(["gpu-0000-01-00-admin"]).collect());
        assert_eq!(offered.counters.len(), 1);
        assert!(tainted(&offered).is_empty());
    }

    #[test]
    fn nothing_is_kept_back_unless_that_is_wanted() {
        for mode in [OtherPlugins::Warn, OtherPlugins::Ignore] {
            assert!(tainted(&marked(mode, Storage::Kept)).is_empty());
            assert_eq!(marked(mode, Storage::Dropped).devices.len(), 6);
        }
    }

    #[test]
    fn only_a_lost_taint_says_that_taints_are_lost() {
        let lost = |feature| [DroppedField { field: "x".into(), of: vec![], feature }];
        let mut storage = Storage::Kept;
        storage.learn(&lost(Feature::PartitionableDevices));
        assert_eq!(storage, Storage::Kept);
        storage.learn(&lost(Feature::DeviceTaints));
        storage.learn(&[]);
        assert_eq!(storage, Storage::Dropped);
    }

    proptest! {
        #[test]
        fn every_value_is_one_that_the_api_server_takes(name in "\\PC{0,100}") {
            let value = value(&plugin(&name));
            prop_assert!(value.len() <= LONGEST_VALUE);
            prop_assert!(value.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)));
            let edges = [value.chars().next(), value.chars().last()];
            prop_assert!(edges.iter().flatten().all(char::is_ascii_alphanumeric));
        }
    }
}
