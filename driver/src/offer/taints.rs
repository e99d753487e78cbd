//! Marks what is offered of some GPUs, for whatever reason, so that new claims don't get it. Pure.
use std::collections::{BTreeMap, BTreeSet};

use aliquot_model::{DeviceName, GpuUuid, Inventory, Part};
use dra_plugin::slices::{DroppedField, Feature};
use k8s_openapi::api::resource::v1::{Device, DeviceTaint};

use super::Offered;

/// Longest value of a label, and so of a taint.
const LONGEST_VALUE: usize = 63;

/// What a taint does to claims that don't tolerate it (KEP-5055).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// New ones don't get the device.
    NoSchedule,
    /// And the pods of those that have it are deleted by kube-controller-manager, for as long as the device is in a slice.
    NoExecute,
}

/// Why a GPU is not for new claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    key: String,
    value: String,
    effect: Effect,
}

impl Mark {
    /// With a text that becomes a label's value, in which there is no `/`.
    pub(crate) fn new(key: &str, text: &str, effect: Effect) -> Self {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let value: String = text.chars().map(|c| if is_plain(c) { c } else { '_' }).take(LONGEST_VALUE).collect();
        let value = value.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned();
        Self { key: key.to_owned(), value, effect }
    }

    pub(super) fn taint(&self) -> DeviceTaint {
        let effect = match self.effect {
            Effect::NoSchedule => "NoSchedule",
            Effect::NoExecute => "NoExecute",
        };
        DeviceTaint {
            key: self.key.clone(),
            value: Some(self.value.clone()),
            effect: effect.to_owned(),
            ..DeviceTaint::default()
        }
    }
}

/// What is to be marked, by GPU.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Marks(BTreeMap<GpuUuid, Vec<Mark>>);

impl Marks {
    /// Whether nothing is.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The GPUs from which pods are evicted.
    pub(crate) fn evicting(&self) -> impl Iterator<Item = &GpuUuid> {
        let evicts = |marks: &[Mark]| marks.iter().any(|mark| mark.effect == Effect::NoExecute);
        self.0.iter().filter(move |(_, marks)| evicts(marks)).map(|(gpu, _)| gpu)
    }

    /// Devices for administration have none: whoever only looks takes nothing from anybody, and has to look at these most.
    fn of(&self, device: &Device, inventory: &Inventory) -> Vec<&Mark> {
        let Ok(name) = device.name.parse::<DeviceName>() else { return Vec::new() };
        let gpu = inventory.device(&name).filter(|(_, part)| *part != Part::Admin).map(|(gpu, _)| gpu);
        let group = inventory.passthrough(&name);
        let place = group.map(|vfio| GpuUuid::of_place(vfio.gpu.pci));
        let members = inventory.gpus().iter().filter(|gpu| group.is_some_and(|vfio| vfio.has(gpu.pci)));
        let gpus: BTreeSet<&GpuUuid> = gpu.into_iter().chain(members).map(|gpu| &gpu.uuid).chain(&place).collect();
        gpus.into_iter().filter_map(|gpu| self.0.get(gpu)).flatten().collect()
    }
}

impl FromIterator<(GpuUuid, Mark)> for Marks {
    fn from_iter<T: IntoIterator<Item = (GpuUuid, Mark)>>(marks: T) -> Self {
        let mut all = Self::default();
        for (gpu, mark) in marks {
            all.0.entry(gpu).or_default().push(mark);
        }
        all
    }
}

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

/// What is offered of marked GPUs gets taints, or is left out where taints are not stored.
pub(crate) fn put(offered: &mut Offered, inventory: &Inventory, marks: &Marks, storage: Storage) {
    match storage {
        Storage::Kept => {
            for device in &mut offered.devices {
                let taints = marks.of(device, inventory).into_iter().map(Mark::taint).collect::<Vec<_>>();
                if !taints.is_empty() {
                    device.taints.get_or_insert_default().extend(taints);
                }
            }
        }
        Storage::Dropped => {
            offered.devices.retain(|device| marks.of(device, inventory).is_empty());
            offered.counters.retain(|set| drawn_on(&offered.devices, &set.name));
        }
    }
}

/// Whether any of these devices draws on a counter set; one that nobody draws on is refused.
pub(super) fn drawn_on(devices: &[Device], set: &str) -> bool {
    let mut consumed = devices.iter().flat_map(|device| device.consumes_counters.iter().flatten());
    consumed.any(|consumed| consumed.counter_set == set)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use aliquot_model::testing::{gpu, vfio, vfio_gpu};
    use aliquot_params::policy::Policy;
    use proptest::prelude::*;

    use super::*;
    use crate::offer::{self, Layout};

    fn marked(marks: &Marks, storage: Storage) -> Offered {
        let inventory = Inventory::new(vec![gpu(0), gpu(1)], vec![]);
        let mut offered = offer::offered(&inventory, &Policy::default(), &[], Layout::Counters);
        put(&mut offered, &inventory, marks, storage);
        offered
    }

    fn one() -> Marks {
        [(gpu(1).uuid, Mark::new("d.example.com/ill", "xid-95", Effect::NoSchedule))].into_iter().collect()
    }

    fn tainted(offered: &Offered) -> BTreeSet<&str> {
        let devices = offered.devices.iter().filter(|device| device.taints.is_some());
        devices.map(|device| device.name.as_str()).collect()
    }

    #[test]
    fn a_gpu_and_its_shares_are_tainted_and_those_who_look_after_it_are_not_kept_out() {
        let offered = marked(&one(), Storage::Kept);
        assert_eq!(tainted(&offered), BTreeSet::from(["gpu-0000-01-00", "gpu-0000-01-00-shared"]));
        let taint = offered.devices.iter().find_map(|device| device.taints.as_ref()?.first()).unwrap();
        let expected = ("d.example.com/ill", Some("xid-95"), "NoSchedule");
        assert_eq!((taint.key.as_str(), taint.value.as_deref(), taint.effect.as_str()), expected);
    }

    #[test]
    fn a_gpu_with_two_reasons_has_both() {
        let second = (gpu(1).uuid, Mark::new("d.example.com/other", "x", Effect::NoExecute));
        let mark = Mark::new("d.example.com/ill", "xid-95", Effect::NoSchedule);
        let marks: Marks = [(gpu(1).uuid, mark), second].into_iter().collect();
        let offered = marked(&marks, Storage::Kept);
        let effects = |device: &Device| -> Vec<String> {
            device.taints.iter().flatten().map(|taint| taint.effect.clone()).collect()
        };
        let both: Vec<_> = offered.devices.iter().map(effects).filter(|effects| !effects.is_empty()).collect();
        assert_eq!(both, [["NoSchedule", "NoExecute"], ["NoSchedule", "NoExecute"]]);
        assert_eq!(marks.evicting().collect::<Vec<_>>(), [&gpu(1).uuid]);
        assert_eq!(one().evicting().count(), 0);
    }

    #[test]
    fn a_group_is_marked_for_each_of_its_gpus_by_whichever_name_they_are_known() {
        let group = aliquot_model::Vfio { more: vec![vfio_gpu(2, "vfio-pci")], ..vfio(1) };
        let inventory = Inventory::new(vec![gpu(2)], vec![]).with_vfio(vec![group]);
        let device = Device { name: "gpu-0000-01-00-vfio".into(), ..Device::default() };
        let marked = |gpu: GpuUuid| {
            let marks: Marks = [(gpu, Mark::new("d/ill", "x", Effect::NoSchedule))].into_iter().collect();
            marks.of(&device, &inventory).len()
        };
        let place = |bus: &str| GpuUuid::of_place(bus.parse().unwrap());
        assert_eq!((marked(place("0000:01:00.0")), marked(gpu(2).uuid), marked(gpu(1).uuid)), (1, 1, 0));
    }

    #[test]
    fn where_taints_are_lost_the_gpu_is_not_offered_but_to_those_who_look_after_it() {
        let offered = marked(&one(), Storage::Dropped);
        let names: BTreeSet<&str> = offered.devices.iter().map(|device| device.name.as_str()).collect();
        let others = ["gpu-0000-00-00", "gpu-0000-00-00-shared", "gpu-0000-00-00-admin"];
        assert_eq!(names, others.into_iter().chain(["gpu-0000-01-00-admin"]).collect());
        assert_eq!(offered.counters.len(), 1);
        assert!(tainted(&offered).is_empty());
    }

    #[test]
    fn without_marks_nothing_changes() {
        let inventory = Inventory::new(vec![gpu(0), gpu(1)], vec![]);
        let plain = offer::offered(&inventory, &Policy::default(), &[], Layout::Counters);
        for storage in [Storage::Kept, Storage::Dropped] {
            assert_eq!(marked(&Marks::default(), storage), plain);
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
        fn every_value_is_one_that_the_api_server_takes(text in "\\PC{0,100}") {
            let Mark { value, .. } = Mark::new("d/k", &text, Effect::NoSchedule);
            prop_assert!(value.len() <= LONGEST_VALUE);
            prop_assert!(value.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)));
            let edges = [value.chars().next(), value.chars().last()];
            prop_assert!(edges.iter().flatten().all(char::is_ascii_alphanumeric));
        }
    }
}
