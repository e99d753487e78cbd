//! GPUs that virtual machines have and that are not theirs any more: they stay published with a taint, so that the scheduler
//! and the kubelet see what became of them. Pure.
use std::collections::BTreeMap;

use aliquot_model::{Binding, DeviceName, GpuUuid, Inventory, IommuGroup, Part, PciAddress};
use dra_plugin::{ClaimRef, PodRef};
use k8s_openapi::api::resource::v1::Device;

use super::{
    Offered, attributes,
    taints::{Mark, Storage, drawn_on},
};

/// What a claim was prepared with for a virtual machine, by its record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Passed {
    /// The device.
    pub(crate) device: DeviceName,
    /// The IOMMU group then.
    pub(crate) group: IommuGroup,
    /// The GPUs in it then; the device is named after the first.
    pub(crate) gpus: Vec<PciAddress>,
    /// Whether they were taken from NVIDIA's driver for it: discovery then knows of the claim itself.
    pub(crate) is_taken: bool,
    /// Whose it is.
    pub(crate) claim: ClaimRef,
    /// Who uses it.
    pub(crate) pods: Vec<PodRef>,
}

/// What is held and lost, and why.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Lost(BTreeMap<DeviceName, (Passed, String)>);

impl Lost {
    /// By what there is now.
    pub(crate) fn of(held: Vec<Passed>, inventory: &Inventory) -> Self {
        let lost = |passed: Passed| Some((passed.device.clone(), (trouble(&passed, inventory)?, passed)));
        Self(held.into_iter().filter_map(lost).map(|(device, (why, passed))| (device, (passed, why))).collect())
    }

    /// Whether nothing is.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each with the reason.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Passed, &str)> {
        self.0.values().map(|(passed, why)| (passed, why.as_str()))
    }

    /// Whether a device is lost for this reason.
    pub(crate) fn has(&self, device: &DeviceName, why: &str) -> bool {
        self.0.get(device).is_some_and(|(_, known)| known == why)
    }

    /// Whether a device is.
    pub(crate) fn holds(&self, device: &DeviceName) -> bool {
        self.0.contains_key(device)
    }

    /// The reasons, by what stands for the group among GPUs.
    pub(crate) fn reasons(&self) -> impl Iterator<Item = (GpuUuid, String)> {
        let of = |(passed, why): &(Passed, String)| Some((GpuUuid::of_place(*passed.gpus.first()?), why.clone()));
        self.0.values().filter_map(of)
    }

    /// Publishes them with this mark, where marks are stored. Whatever else is there of the same GPUs goes to nobody: the
    /// virtual machine may still have a part.
    pub(crate) fn put(&self, offered: &mut Offered, inventory: &Inventory, mark: &Mark, storage: Storage) {
        if self.is_empty() {
            return;
        }
        let is_theirs = |device: &Device| {
            let part = |pci: &PciAddress| device.name.parse::<DeviceName>().ok()?.part_of(*pci);
            let parts = self.0.values().flat_map(|(passed, _)| &passed.gpus).filter_map(part);
            parts.into_iter().any(|part| part != Part::Admin)
        };
        offered.devices.retain(|device| !is_theirs(device));
        offered.counters.retain(|set| drawn_on(&offered.devices, &set.name));
        if storage == Storage::Kept {
            offered.devices.extend(self.0.values().map(|(passed, _)| device(passed, inventory, mark)));
        }
    }
}

/// Why a virtual machine hasn't what it was given, if it hasn't.
fn trouble(passed: &Passed, inventory: &Inventory) -> Option<String> {
    let Some(now) = inventory.passthrough(&passed.device) else {
        return Some("the kernel doesn't list the GPU any more, or not as the first of its IOMMU group".to_owned());
    };
    // A reading from before it was there says nothing.
    let is_on_its_way = passed.is_taken && now.binding == Binding::Switchable;
    if let Some(trouble) = now.binding.trouble().filter(|_| !is_on_its_way) {
        return Some(trouble.to_owned());
    }
    let gpus: Vec<PciAddress> = now.gpus().map(|gpu| gpu.pci).collect();
    if (now.group, &gpus) == (passed.group, &passed.gpus) {
        return None;
    }
    Some(format!(
        "its IOMMU group was {} with {}, and is {} with {}",
        passed.group,
        listed(&passed.gpus),
        now.group,
        listed(&gpus)
    ))
}

fn listed(gpus: &[PciAddress]) -> String {
    gpus.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// As it was published; of one that the kernel doesn't list any more, what the record knows.
fn device(passed: &Passed, inventory: &Inventory, mark: &Mark) -> Device {
    let known = inventory.passthrough(&passed.device).map(attributes::of_vfio);
    Device {
        name: passed.device.to_string(),
        attributes: Some(known.unwrap_or_else(|| attributes::of_lost(passed))),
        taints: Some(vec![mark.taint()]),
        ..Device::default()
    }
}

#[cfg(test)]
mod tests {
    use aliquot_model::{Binding, Vfio, testing};
    use aliquot_params::policy::Policy;

    use super::*;
    use crate::offer::{self, Layout, taints::Effect};

    fn passed(vfio: &Vfio) -> Passed {
        Passed {
            device: vfio.name(),
            group: vfio.group,
            gpus: vfio.gpus().map(|gpu| gpu.pci).collect(),
            is_taken: false,
            claim: ClaimRef::new("default", "vm", "u1").unwrap(),
            pods: vec![],
        }
    }

    fn node(vfio: Vec<Vfio>) -> Inventory {
        Inventory::new(vec![testing::gpu(1)], vec![]).with_vfio(vfio)
    }

    fn why(now: Vec<Vfio>) -> Option<String> {
        let lost = Lost::of(vec![passed(&testing::vfio(2))], &node(now));
        lost.iter().next().map(|(_, why)| why.to_owned())
    }

    fn put(now: &Inventory, storage: Storage) -> Offered {
        let mut offered = offer::offered(now, &Policy::default(), &[], Layout::Counters);
        let mark = Mark::new("d/unhealthy", "vfio-gpu-lost", Effect::NoSchedule);
        Lost::of(vec![passed(&testing::vfio(2))], now).put(&mut offered, now, &mark, storage);
        offered
    }

    fn names(offered: &Offered) -> Vec<&str> {
        offered.devices.iter().map(|device| device.name.as_str()).collect()
    }

    #[test]
    fn what_a_machine_has_is_lost_when_its_driver_its_node_its_group_or_itself_has_gone() {
        let with = |binding| Vfio { binding, ..testing::vfio(2) };
        assert_eq!(why(vec![testing::vfio(2)]), None);
        assert!(why(vec![with(Binding::Switchable)]).unwrap().contains("no vfio driver"));
        assert_eq!(
            why(vec![with(Binding::Unusable("there is no /dev/vfio/2".into()))]).unwrap(),
            "there is no /dev/vfio/2"
        );
        assert!(why(vec![]).unwrap().contains("doesn't list"));
        let moved = Vfio { group: IommuGroup(9), ..testing::vfio(2) };
        assert!(why(vec![moved]).unwrap().contains("was 2 with 0000:02:00.0, and is 9 with 0000:02:00.0"));
        let wider = Vfio { more: vec![testing::vfio_gpu(3, "vfio-pci")], ..testing::vfio(2) };
        assert!(why(vec![wider]).unwrap().contains("0000:02:00.0, 0000:03:00.0"));
    }

    #[test]
    fn what_is_just_being_taken_is_not_lost() {
        let taken = || vec![Passed { is_taken: true, ..passed(&testing::vfio(2)) }];
        let with = |binding| node(vec![Vfio { binding, ..testing::vfio(2) }]);
        assert!(Lost::of(taken(), &with(Binding::Switchable)).is_empty());
        assert!(!Lost::of(taken(), &with(Binding::Unusable("it is gone".into()))).is_empty());
    }

    #[test]
    fn it_stays_published_with_a_taint_and_what_else_there_is_of_its_gpus_goes_to_nobody() {
        // Somebody has given it back to NVIDIA's driver under the machine.
        let taken = Vfio { binding: Binding::Switchable, ..testing::vfio(2) };
        let now = Inventory::new(vec![testing::gpu(1), testing::gpu(2)], vec![]).with_vfio(vec![taken]);
        let offered = put(&now, Storage::Kept);
        let all = [
            "gpu-0000-01-00-shared",
            "gpu-0000-01-00",
            "gpu-0000-01-00-admin",
            "gpu-0000-02-00-admin",
            "gpu-0000-02-00-vfio",
        ];
        assert_eq!(names(&offered), all);
        assert_eq!(offered.counters.len(), 1);
        let lost = offered.devices.last().unwrap();
        assert_eq!(lost.taints.as_ref().unwrap()[0].value.as_deref(), Some("vfio-gpu-lost"));
        assert_eq!(lost.attributes.as_ref().unwrap()["productName"].string.as_deref(), Some("GH100 [H100 SXM5 80GB]"));
        let without = put(&now, Storage::Dropped);
        assert_eq!(names(&without), all[..4], "a taint that isn't stored would offer it to everybody");
    }

    #[test]
    fn one_that_the_kernel_has_forgotten_is_published_by_what_the_record_knows() {
        let offered = put(&node(vec![]), Storage::Kept);
        let attributes = serde_json::to_value(offered.devices.last().unwrap().attributes.as_ref().unwrap()).unwrap();
        let expected = serde_json::json!({
            "type": {"string": "vfio"},
            "uuid": {"string": "GPU-pci-0000-02-00-0"},
            "iommuGroup": {"int": 2},
            "gpus": {"int": 1},
            "resource.kubernetes.io/pciBusID": {"string": "0000:02:00.0"},
        });
        assert_eq!(attributes, expected);
    }

    #[test]
    fn a_group_that_is_named_after_another_gpu_since_is_not_offered_beside_it() {
        let group = Vfio { more: vec![testing::vfio_gpu(3, "vfio-pci")], ..testing::vfio(2) };
        let rest = Vfio { group: group.group, ..testing::vfio(3) };
        let now = node(vec![rest]);
        let mut offered = offer::offered(&now, &Policy::default(), &[], Layout::Counters);
        let lost = Lost::of(vec![passed(&group)], &now);
        lost.put(&mut offered, &now, &Mark::new("d/k", "v", Effect::NoSchedule), Storage::Kept);
        assert!(!names(&offered).contains(&"gpu-0000-03-00-vfio") && names(&offered).contains(&"gpu-0000-02-00-vfio"));
        assert_eq!(lost.reasons().next().unwrap().0, GpuUuid::of_place("0000:02:00.0".parse().unwrap()));
    }

    #[test]
    fn where_all_is_there_nothing_changes() {
        let now = node(vec![testing::vfio(2)]);
        let plain = offer::offered(&now, &Policy::default(), &[], Layout::Counters);
        assert_eq!(put(&now, Storage::Kept), plain);
    }
}
