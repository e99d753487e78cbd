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
mod tests {
    use aliquot_model::{Binding, Memory, Xid, testing};
    use aliquot_params::TimeSlice;
    use serde_json::json;

    use super::*;
    use crate::claim::{Slice, testing as records};

    const DRIVER: &str = "gpu.example.com";

    fn gpu(bus: u8, hard: bool) -> Gpu {
        Gpu { hard_limits: hard, process_memory: true, ..testing::gpu(bus) }
    }

    fn gpus(all: &[Gpu], policy: &str, ill: &[(Gpu, Cause)]) -> Gpus {
        let policy = format!("apiVersion: gpu.aliquot.dev/v1alpha1\nkind: Policy\nrules: {policy}\n");
        let mut gpus = Gpus::default();
        let ill = ill.iter().map(|(gpu, cause)| (gpu.uuid.clone(), cause.clone())).collect();
        gpus.learn(&Inventory::new(all.to_vec(), vec![]), &Policy::parse(policy.as_bytes()).unwrap(), &ill);
        gpus
    }

    fn share_of(gpu: &Gpu) -> Record {
        let mut record = records::share("u1", "gpu-0000-41-00", 2, 8);
        record.devices[0].gpu = gpu.uuid.clone();
        record
    }

    fn data(record: &Record, gpus: &Gpus) -> Value {
        entries(record, DRIVER, gpus).unwrap().remove(0).data.unwrap().0
    }

    #[test]
    fn a_whole_gpu_is_told_by_its_uuid_its_place_and_its_product() {
        let gpu = gpu(0x41, false);
        let mut record = records::record("u1", &["gpu-0000-41-00"]);
        record.devices[0].gpu = gpu.uuid.clone();
        let entry = entries(&record, DRIVER, &gpus(&[gpu.clone()], "[]", &[])).unwrap().remove(0);
        assert_eq!((entry.device.as_str(), entry.pool.as_str()), ("gpu-0000-41-00", "gpu.example.com/node1"));
        let told = json!({"uuid": gpu.uuid, "pciBusID": "0000:41:00.0", "productName": gpu.product_name});
        assert_eq!(entry.data.unwrap().0, told);
    }

    #[test]
    fn a_share_says_how_much_it_is_and_who_holds_its_users_to_it() {
        let soft = gpu(0x41, false);
        let told = |policy: &str| data(&share_of(&soft), &gpus(&[soft.clone()], policy, &[]))["share"].clone();
        assert_eq!(
            told("[{shares: {guard: {mode: evict}}}]"),
            json!({"shares": 2, "memory": "8Gi", "memoryEnforcement": "guard", "memoryGuard": "evict"})
        );
        let unguarded = json!({"shares": 2, "memory": "8Gi", "memoryEnforcement": "none"});
        assert_eq!(told("[{shares: {guard: {mode: 'off'}}}]"), unguarded);
        let mut record = share_of(&soft);
        record.devices[0].share.as_mut().unwrap().hard = true;
        record.devices[0].time_slice = Some(Slice { interval: TimeSlice::Short, asked: true, required: false });
        let told = data(&record, &gpus(&[gpu(0x41, true)], "[]", &[]));
        assert_eq!((&told["share"]["memoryEnforcement"], &told["timeSlice"]), (&json!("hard"), &json!("Short")));
    }

    #[test]
    fn a_gpu_that_falls_ill_or_goes_away_is_told_of_in_a_condition() {
        let gpu = gpu(0x41, false);
        let healthy = |gpus: &Gpus| {
            let entry = entries(&share_of(&gpu), DRIVER, gpus).unwrap().remove(0);
            let conditions = entry.conditions.unwrap();
            assert_eq!((conditions[0].type_.as_str(), conditions[0].status.as_str()), ("Ready", "True"));
            (conditions[1].status.clone(), conditions[1].reason.clone())
        };
        let mut seen = gpus(&[gpu.clone()], "[]", &[]);
        assert_eq!(healthy(&seen), ("True".to_owned(), "NoErrors".to_owned()));
        let ill = gpus(&[gpu.clone()], "[]", &[(gpu.clone(), Cause::Xid(Xid(95)))]);
        assert_eq!(healthy(&ill), ("False".to_owned(), "GPUUnhealthy".to_owned()));
        seen.learn(&Inventory::default(), &Policy::default(), &BTreeMap::new());
        assert_eq!(healthy(&seen), ("False".to_owned(), "GPUGone".to_owned()));
    }

    #[test]
    fn a_virtual_machines_gpu_is_told_by_its_place_and_its_group_and_nobody_knows_how_it_is() {
        let mut gpus = Gpus::default();
        let mut learn = |vfio: Vec<Vfio>| {
            gpus.learn(&Inventory::default().with_vfio(vfio), &Policy::default(), &BTreeMap::new());
            entries(&records::passed("u1", &["0000:41:00.0", "0000:42:00.0"]), DRIVER, &gpus).unwrap().remove(0)
        };
        let entry = learn(vec![testing::vfio(0x41)]);
        let told = json!({"uuid": "GPU-pci-0000-41-00-0", "pciBusID": "0000:41:00.0", "iommuGroup": 12,
            "morePCIBusIDs": ["0000:42:00.0"], "productName": "GH100 [H100 SXM5 80GB]"});
        assert_eq!(entry.data.unwrap().0, told);
        let healthy = |entry: Vec<Condition>| (entry[1].status.clone(), entry[1].reason.clone());
        assert_eq!(healthy(entry.conditions.unwrap()), ("Unknown".to_owned(), "InVirtualMachine".to_owned()));
        let lost = learn(vec![Vfio { binding: Binding::Switchable, ..testing::vfio(0x41) }]);
        assert_eq!(healthy(lost.conditions.unwrap()), ("False".to_owned(), "VfioGPULost".to_owned()));
        assert_eq!(healthy(learn(vec![]).conditions.unwrap()), ("False".to_owned(), "GPUGone".to_owned()));
    }

    #[test]
    fn nothing_is_told_of_a_gpu_that_was_never_seen() {
        assert_eq!(entries(&records::record("u1", &["gpu-0000-41-00"]), DRIVER, &Gpus::default()), None);
    }

    #[test]
    fn what_is_there_already_is_equal_and_only_what_turns_has_a_new_time() {
        let gpu = gpu(0x41, false);
        let (first, later) = (Timestamp::from_second(100).unwrap(), Timestamp::from_second(200).unwrap());
        let well = entries(&share_of(&gpu), DRIVER, &gpus(&[gpu.clone()], "[]", &[])).unwrap();
        let there = stamped(well.clone(), &[], first);
        assert_eq!(stamped(well, &there, later), there);
        let cause = Cause::Xid(Xid(95));
        let ill = entries(&share_of(&gpu), DRIVER, &gpus(&[gpu.clone()], "[]", &[(gpu, cause)])).unwrap();
        let turned = stamped(ill, &there, later).remove(0).conditions.unwrap();
        let times: Vec<_> = turned.iter().map(|condition| condition.last_transition_time.0).collect();
        assert_eq!(times, [first, later]);
    }

    #[test]
    fn the_largest_entry_is_one_that_the_api_server_takes() {
        // KEP-4817: at most 10 KiB of data.
        let long = Gpu { product_name: "x".repeat(96), memory: Memory::from_bytes(u64::MAX), ..gpu(0x41, true) };
        let told = data(&share_of(&long), &gpus(&[long.clone()], "[]", &[]));
        assert!(told.to_string().len() < 10 << 10);
    }
}
