//! What `status` shows: each GPU with what it measures, and each claim with what it holds and uses. Pure.
use std::{
    collections::{BTreeMap, BTreeSet},
    time::SystemTime,
};

use aliquot_model::{DeviceName, GpuUuid, IommuGroup, Memory, PciAddress};
use serde::Serialize;

use super::node::{GpuSeen, NodeSeen, Process};
use crate::{
    claim::{Owed, Seen, SeenState},
    sweep::report::{Told, ToldVerdict},
};

/// All of it, as it goes out as JSON.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    api_version: &'static str,
    kind: &'static str,
    pub(super) version: &'static str,
    pub(super) driver: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sweep: Option<Sweep>,
    pub(super) gpus: Vec<Gpu>,
    /// Why the GPUs can't be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) gpus_trouble: Option<String>,
    pub(super) claims: Vec<Claim>,
    /// GPUs that have the time slice of a claim that is gone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) time_slices_owed: Vec<TimeSliceOwed>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TimeSliceOwed {
    pub(super) gpu: GpuUuid,
    /// Why it could not be given back when that was last tried.
    pub(super) reason: String,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Sweep {
    pub(super) mode: String,
    pub(super) grace_seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) seconds_ago: Option<u64>,
}

/// One GPU; what it doesn't tell is not there.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Gpu {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) index: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) uuid: Option<GpuUuid>,
    #[serde(rename = "pciBusID", skip_serializing_if = "Option::is_none")]
    pub(super) pci: Option<PciAddress>,
    /// Where a vfio driver has it, so that a virtual machine can have all of this group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) iommu_group: Option<IommuGroup>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) product_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) driver_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) memory_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) memory_used_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) busy_percent: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) temperature_celsius: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) power_milliwatts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) power_limit_milliwatts: Option<u32>,
    /// Why nobody new gets it, or why it doesn't answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) trouble: Option<String>,
    /// Memory of processes that are in no pod with a claim on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) others_memory_bytes: Option<u64>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Claim {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) namespace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    pub(super) uid: String,
    pub(super) state: &'static str,
    /// Those that it was reserved for when it was prepared.
    pub(super) pods: Vec<Pod>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) age_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) file: Option<String>,
    /// Why the record can't be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) trouble: Option<String>,
    pub(super) devices: Vec<Device>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sweep: Option<ToldVerdict>,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Pod {
    pub(super) name: String,
    uid: String,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Device {
    #[serde(rename = "device")]
    pub(super) name: DeviceName,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) gpu: Option<GpuUuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    share_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) memory_bytes: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) hard_limit: bool,
    /// Of a virtual machine: all that it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    iommu_group: Option<IommuGroup>,
    #[serde(rename = "pciBusIDs", skip_serializing_if = "Vec::is_empty")]
    places: Vec<PciAddress>,
    /// By the processes of the claim's pods on this GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) memory_used_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sm_percent: Option<u32>,
    /// Whether another claim's use is in these figures, since one pod holds both.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) is_together: bool,
}

impl Gpu {
    /// Whether a device is this GPU, or part of it. A damaged record knows no more of a device than its name.
    pub(super) fn has(&self, device: &Device) -> bool {
        match (&device.gpu, &self.uuid) {
            _ if !device.places.is_empty() => self.pci.is_some_and(|pci| device.places.contains(&pci)),
            (Some(gpu), Some(uuid)) => gpu == uuid,
            _ => self.pci.is_some_and(|pci| device.name.part_of(pci).is_some()),
        }
    }
}

/// What a report is made of.
#[derive(Clone, Copy)]
pub(super) struct Sources<'a> {
    /// The records of claims.
    pub(super) seen: &'a [Seen],
    pub(super) owed: &'a [Owed],
    pub(super) node: &'a NodeSeen,
    /// By the running driver.
    pub(super) told: Option<&'a Told>,
}

/// Of what the records, the node and the running driver show.
pub(super) fn report(driver: &str, sources: &Sources<'_>, now: SystemTime) -> Report {
    let Sources { seen, owed, node, told } = *sources;
    let verdict = |uid: &str| told.and_then(|told| told.verdicts.get(uid)).cloned();
    let mut claims: Vec<Claim> = seen.iter().map(|seen| claim(seen, verdict(seen.uid.as_str()), now)).collect();
    let gpus = node.gpus.iter().map(|seen| measured(seen, &mut claims)).collect();
    let is_seen = |uid: &String| seen.iter().any(|seen| seen.uid.as_str() == uid);
    let only_told = told.iter().flat_map(|told| &told.verdicts).filter(|(uid, told)| told.is_spec && !is_seen(uid));
    claims.extend(only_told.map(|(uid, verdict)| Claim {
        namespace: None,
        name: None,
        uid: uid.clone(),
        state: "spec-only",
        pods: Vec::new(),
        age_seconds: None,
        file: None,
        trouble: None,
        devices: Vec::new(),
        sweep: Some(verdict.clone()),
    }));
    Report {
        api_version: "gpu.aliquot.dev/v1alpha1",
        kind: "ClaimReport",
        version: env!("CARGO_PKG_VERSION"),
        driver: driver.to_owned(),
        sweep: told.map(|told| Sweep {
            mode: told.mode.clone(),
            grace_seconds: told.grace_seconds,
            seconds_ago: told.seconds_ago,
        }),
        gpus,
        gpus_trouble: node.trouble.clone(),
        claims,
        time_slices_owed: owed
            .iter()
            .map(|owed| TimeSliceOwed { gpu: owed.gpu.clone(), reason: owed.reason.clone() })
            .collect(),
    }
}

fn claim(seen: &Seen, sweep: Option<ToldVerdict>, now: SystemTime) -> Claim {
    let (state, trouble) = match &seen.state {
        SeenState::Preparing => ("preparing", None),
        SeenState::Prepared => ("prepared", None),
        SeenState::Quarantined(reason) => ("quarantined", Some(reason.clone())),
    };
    let devices = seen.devices.iter().map(|device| Device {
        name: device.name.clone(),
        request: device.request.clone(),
        gpu: device.gpu.clone(),
        share_id: device.share_id.clone(),
        memory_bytes: device.memory.map(Memory::bytes),
        hard_limit: device.hard,
        iommu_group: device.vfio.as_ref().map(|passed| passed.group),
        places: device.vfio.as_ref().map(|passed| passed.gpus.clone()).unwrap_or_default(),
        memory_used_bytes: None,
        sm_percent: None,
        is_together: false,
    });
    Claim {
        namespace: seen.claim.as_ref().map(|claim| claim.namespace().to_owned()),
        name: seen.claim.as_ref().map(|claim| claim.name().to_owned()),
        uid: seen.uid.to_string(),
        state,
        pods: seen.pods.iter().map(|pod| Pod { name: pod.name.clone(), uid: pod.uid.clone() }).collect(),
        // A clock that was set back shows in files of the future.
        age_seconds: seen.written.map(|at| now.duration_since(at).unwrap_or_default().as_secs()),
        file: Some(seen.file.display().to_string()),
        trouble,
        devices: devices.collect(),
        sweep,
    }
}

/// One GPU; of its processes, each claim is told what those of its pods use.
fn measured(seen: &GpuSeen, claims: &mut [Claim]) -> Gpu {
    let gpu = Gpu {
        index: seen.index,
        uuid: seen.uuid.clone(),
        pci: seen.pci,
        iommu_group: seen.group,
        product_name: seen.product_name.clone(),
        driver_version: seen.driver_version.clone(),
        memory_bytes: seen.memory.map(Memory::bytes),
        memory_used_bytes: seen.sample.memory.map(|memory| memory.used.bytes()),
        busy_percent: seen.sample.busy,
        temperature_celsius: seen.sample.temperature,
        power_milliwatts: seen.sample.power,
        power_limit_milliwatts: seen.sample.power_limit,
        trouble: seen.trouble.clone(),
        others_memory_bytes: None,
    };
    let Some(processes) = &seen.processes else { return gpu };
    let mut holders: BTreeMap<String, usize> = BTreeMap::new();
    for claim in claims.iter() {
        let devices = claim.devices.iter().filter(|device| gpu.has(device)).count();
        for pod in claim.pods.iter().filter(|_| devices > 0) {
            *holders.entry(pod.uid.clone()).or_default() += devices;
        }
    }
    for claim in claims.iter_mut().filter(|claim| !claim.pods.is_empty()) {
        let pods: BTreeSet<&str> = claim.pods.iter().map(|pod| pod.uid.as_str()).collect();
        let own = processes.iter().filter(|process| process.pod.as_deref().is_some_and(|pod| pods.contains(pod)));
        let own: Vec<&Process> = own.collect();
        for device in claim.devices.iter_mut().filter(|device| gpu.has(device)) {
            device.memory_used_bytes = Some(used(own.iter().copied()));
            device.sm_percent = own.iter().map(|process| process.sm).sum();
            device.is_together = pods.iter().any(|pod| holders.get(*pod).is_some_and(|devices| *devices > 1));
        }
    }
    let is_held = |process: &&Process| process.pod.as_ref().is_some_and(|pod| holders.contains_key(pod));
    let others = used(processes.iter().filter(|process| !is_held(process)));
    Gpu { others_memory_bytes: (others > 0).then_some(others), ..gpu }
}

fn used<'a>(processes: impl Iterator<Item = &'a Process>) -> u64 {
    processes.filter_map(|process| process.used).sum::<Memory>().bytes()
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
