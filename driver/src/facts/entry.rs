//! What is told of one device that a claim holds. Pure.
use std::collections::BTreeMap;

use aliquot_model::{Gpu, GpuUuid, Inventory, IommuGroup, PciAddress, Vfio};
use aliquot_params::policy::{GuardMode, Policy};
use k8s_openapi::{
    api::resource::v1::AllocatedDeviceStatus,
    apimachinery::pkg::{
        apis::meta::v1::{Condition, Time},
        runtime::RawExtension,
    },
    jiff::Timestamp,
};
use serde::Serialize;
use serde_json::Value;

use crate::{
    claim::{Held, Record},
    health::Cause,
};

/// What is told of a GPU beside what the claim's record says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Facts {
    pci: String,
    product: String,
    guard: Guard,
    reader: Reader,
    /// Why nothing new is given to it, if so.
    trouble: Option<Trouble>,
}

/// Who looks after the memory of a GPU's shares where NVIDIA's driver doesn't.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guard {
    Nobody,
    Memory(GuardMode),
}

/// Who knows of a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    /// NVIDIA's driver.
    Nvml,
    /// The kernel only, as a virtual machine has the GPU.
    Sysfs,
}

impl Reader {
    /// In words, for one that is away.
    fn gone(self) -> &'static str {
        match self {
            Self::Nvml => "NVML doesn't list it, or it doesn't answer",
            Self::Sysfs => "the kernel doesn't list it, or not in an IOMMU group",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Trouble {
    reason: &'static str,
    message: String,
}

/// The GPUs that this process has seen. One that is away stays, so that what its claims were given can still be told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Gpus(BTreeMap<GpuUuid, Facts>);

impl Gpus {
    /// From what there is now.
    pub(super) fn learn(&mut self, inventory: &Inventory, policy: &Policy, ill: &BTreeMap<GpuUuid, Cause>) {
        for facts in self.0.values_mut() {
            facts.trouble = Some(Trouble { reason: "GPUGone", message: facts.reader.gone().to_owned() });
        }
        self.0.extend(inventory.vfio().iter().map(|vfio| (GpuUuid::of_place(vfio.gpu.pci), Facts::from(vfio))));
        self.0.extend(inventory.gpus().iter().map(|gpu| {
            let ill = ill.get(&gpu.uuid);
            let trouble = ill.map(|cause| Trouble { reason: "GPUUnhealthy", message: cause.explained() });
            let (pci, product) = (gpu.pci.to_string(), gpu.product_name.clone());
            (gpu.uuid.clone(), Facts { pci, product, guard: guard(gpu, policy), reader: Reader::Nvml, trouble })
        }));
    }
}

impl From<&Vfio> for Facts {
    fn from(vfio: &Vfio) -> Self {
        let lost = |reason: &str| Trouble { reason: "VfioGPULost", message: reason.to_owned() };
        Self {
            pci: vfio.gpu.pci.to_string(),
            product: vfio.gpu.product_name.clone(),
            guard: Guard::Nobody,
            reader: Reader::Sysfs,
            trouble: vfio.binding.trouble().map(lost),
        }
    }
}

fn guard(gpu: &Gpu, policy: &Policy) -> Guard {
    let shares = policy.for_gpu(gpu).ok().and_then(|offer| offer.shares);
    match shares.map(|shares| shares.guard.mode) {
        Some(mode) if mode != GuardMode::Off && gpu.process_memory => Guard::Memory(mode),
        _ => Guard::Nobody,
    }
}

/// Of all devices of a claim in the order of the allocation; none while one of their GPUs has never been seen.
pub(super) fn entries(record: &Record, driver: &str, gpus: &Gpus) -> Option<Vec<AllocatedDeviceStatus>> {
    record.devices.iter().map(|held| Some(entry(held, driver, gpus.0.get(&held.gpu)?))).collect()
}

/// `data` of an entry, by the names of the attributes in slices where these have the same.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Data<'a> {
    uuid: &'a str,
    #[serde(rename = "pciBusID")]
    pci_bus_id: &'a str,
    product_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    iommu_group: Option<IommuGroup>,
    /// GPUs of the same group, which went along.
    #[serde(rename = "morePCIBusIDs", skip_serializing_if = "<[_]>::is_empty")]
    more: &'a [PciAddress],
    #[serde(skip_serializing_if = "Option::is_none")]
    share: Option<Share>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time_slice: Option<&'static str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    admin_access: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Share {
    shares: u32,
    memory: String,
    memory_enforcement: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_guard: Option<&'static str>,
}

fn entry(held: &Held, driver: &str, gpu: &Facts) -> AllocatedDeviceStatus {
    let share = held.share.map(|share| {
        let (memory_enforcement, memory_guard) = match (held.hard(), gpu.guard) {
            (Some(_), Guard::Memory(mode)) => ("hard", Some(mode.as_str())),
            (Some(_), Guard::Nobody) => ("hard", None),
            (None, Guard::Memory(mode)) => ("guard", Some(mode.as_str())),
            (None, Guard::Nobody) => ("none", None),
        };
        let (shares, memory) = (share.takes.shares, share.takes.memory.to_string());
        Share { shares, memory, memory_enforcement, memory_guard }
    });
    let data = Data {
        uuid: held.gpu.as_str(),
        pci_bus_id: &gpu.pci,
        product_name: &gpu.product,
        iommu_group: held.vfio.as_ref().map(|passed| passed.group),
        more: held.vfio.as_ref().and_then(|passed| passed.gpus.get(1..)).unwrap_or_default(),
        share,
        time_slice: held.time_slice.map(|slice| slice.interval.as_str()),
        admin_access: held.admin_access,
    };
    let healthy = match &gpu.trouble {
        None if gpu.reader == Reader::Sysfs => {
            condition("Healthy", "Unknown", "InVirtualMachine", "only the driver in the virtual machine can tell")
        }
        None => condition("Healthy", "True", "NoErrors", ""),
        Some(Trouble { reason, message }) => condition("Healthy", "False", reason, message),
    };
    AllocatedDeviceStatus {
        driver: driver.to_owned(),
        pool: held.pool.clone(),
        device: held.device.to_string(),
        share_id: held.share_id.clone(),
        conditions: Some(vec![condition("Ready", "True", "Prepared", ""), healthy]),
        data: Some(RawExtension(serde_json::to_value(data).unwrap_or(Value::Null))),
        network_data: None,
    }
}

/// Without a time, which [`stamped`] gives it.
fn condition(type_: &str, status: &str, reason: &str, message: &str) -> Condition {
    Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: None,
        last_transition_time: Time(Timestamp::UNIX_EPOCH),
    }
}

/// The same with the time of each condition's last turn: as it was where it is the same in what is there, else now. So
/// entries that are there already are equal to those that are there.
pub(super) fn stamped(
    mut wanted: Vec<AllocatedDeviceStatus>,
    there: &[AllocatedDeviceStatus],
    now: Timestamp,
) -> Vec<AllocatedDeviceStatus> {
    for entry in &mut wanted {
        let before = there.iter().find(|other| is_same(entry, other)).and_then(|other| other.conditions.as_ref());
        for condition in entry.conditions.iter_mut().flatten() {
            let same = |other: &&Condition| other.type_ == condition.type_ && other.status == condition.status;
            let before = before.into_iter().flatten().find(same);
            condition.last_transition_time =
                before.map_or(Time(now), |condition| condition.last_transition_time.clone());
        }
    }
    wanted
}

/// Whether two entries are about one device, or one share of it.
pub(super) fn is_same(one: &AllocatedDeviceStatus, other: &AllocatedDeviceStatus) -> bool {
    let key = |entry: &AllocatedDeviceStatus| {
        [Some(&entry.driver), Some(&entry.pool), Some(&entry.device), entry.share_id.as_ref()]
            .map(Option::<&String>::cloned)
    };
    key(one) == key(other)
}

#[cfg(test)]
#[path = "entry_tests.rs"]
mod tests;
