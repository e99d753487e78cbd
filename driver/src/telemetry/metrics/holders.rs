//! Who holds what: devices offered and held, and the series by which everything else is joined to pods and claims.
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use aliquot_model::GpuUuid;
use dra_plugin::{
    Registration,
    slices::{Handle, PublishStatus},
};
use prometheus_client::encoding::DescriptorEncoder;
use tokio::sync::watch;

use super::{
    gpus::{flag, large},
    series::{Family, alone},
};
use crate::{
    claim::Record,
    sharing::guard::{Pid, Procfs},
    telemetry::sampling::Samples,
};

const OFFERED: Family = Family::gauge("aliquot_devices_offered", "Devices that are published, by what they are");
const HELD: Family = Family::gauge("aliquot_devices_held", "Allocations of devices to claims here, by what they are");
const REGISTERED: Family = Family::gauge("aliquot_registered", "1 if the kubelet uses this driver");
const SLICES: Family = Family::gauge("aliquot_slices_published", "ResourceSlices that the API server has of this node");
const GENERATION: Family = Family::gauge("aliquot_slices_generation", "Generation of the pool that is published");
const WRITES: Family = Family::counter("aliquot_slices_writes", "Writes of ResourceSlices; none at rest");
const DEVICE: Family = Family::gauge(
    "aliquot_claim_device_info",
    "1 for each device of each claim and each pod that it was reserved for when it was prepared",
);
const SM: Family = Family::gauge(
    "aliquot_pod_sm_utilization",
    "Part of a GPU's time in which kernels of a pod ran; claims of one pod on one GPU are joined by commas",
)
.of("ratio");

/// What is published, and what the kubelet has made of the driver.
pub(super) fn encode_publishing(
    encoder: &mut DescriptorEncoder<'_>,
    publishing: &Handle,
    registration: &watch::Receiver<Registration>,
) -> fmt::Result {
    let names = publishing.device_names();
    OFFERED.encode(encoder, by_kind(names.iter().map(String::as_str)))?;
    let registered = matches!(*registration.borrow(), Registration::Registered);
    REGISTERED.encode(encoder, alone(flag(registered)))?;
    if let PublishStatus::Published { generation, slices, .. } = &*publishing.status().borrow() {
        SLICES.encode(encoder, alone(large(*slices as u64)))?;
        GENERATION.encode(encoder, alone(large(u64::try_from(*generation).unwrap_or_default())))?;
    }
    WRITES.encode(encoder, alone(large(publishing.writes())))
}

/// What claims hold, and what their pods do with it.
pub(super) fn encode_claims(
    encoder: &mut DescriptorEncoder<'_>,
    records: &[Arc<Record>],
    samples: &Samples,
    procfs: &Procfs,
) -> fmt::Result {
    let held = || records.iter().flat_map(|record| record.devices.iter().map(move |held| (record, held)));
    HELD.encode(encoder, by_kind(held().map(|(_, held)| held.device.as_str())))?;
    let info = held().flat_map(|(record, held)| {
        let nobody = record.pods.is_empty().then_some(("", ""));
        let pods = record.pods.iter().map(|pod| (pod.name.as_str(), pod.uid.as_str())).chain(nobody);
        pods.map(move |(pod, pod_uid)| {
            let labels = vec![
                ("namespace", record.claim.namespace()),
                ("claim", record.claim.name()),
                ("claim_uid", record.claim.uid().as_str()),
                ("request", held.request.as_str()),
                ("pod", pod),
                ("pod_uid", pod_uid),
                ("uuid", held.gpu.as_str()),
                ("device", held.device.as_str()),
                ("share_id", held.share_id.as_deref().unwrap_or_default()),
            ];
            (labels, 1.0)
        })
    });
    DEVICE.encode_found(encoder, info)?;
    let use_ = sm_use(records, samples, |pid| procfs.pod(Pid(pid)).ok().flatten().map(|pod| pod.to_string()));
    let series = use_.iter().map(|((gpu, namespace, pod), (claims, part))| {
        let labels = vec![("uuid", gpu.as_str()), ("namespace", *namespace), ("pod", *pod), ("claim", claims.as_str())];
        (labels, *part)
    });
    SM.encode_found(encoder, series)
}

/// By GPU, namespace and pod.
type Use<'a> = BTreeMap<(&'a GpuUuid, &'a str, &'a str), (String, f64)>;

/// Which part of each GPU's time each pod took that holds something of it. Processes of no such pod count for nothing.
fn sm_use<'a>(records: &'a [Arc<Record>], samples: &Samples, pod_of: impl Fn(u32) -> Option<String>) -> Use<'a> {
    let mut use_ = Use::new();
    for (gpu, sample) in samples.iter() {
        let Some(processes) = sample.as_ref().ok().and_then(|sample| sample.processes.as_ref()) else { continue };
        let mut by_pod: BTreeMap<String, u32> = BTreeMap::new();
        for process in processes {
            if let Some(pod) = pod_of(process.pid) {
                *by_pod.entry(pod).or_default() += process.sm;
            }
        }
        let mut holders: BTreeMap<&str, (&GpuUuid, &str, &str, BTreeSet<&str>)> = BTreeMap::new();
        for record in records {
            let Some(held) = record.devices.iter().find(|held| held.gpu == gpu.uuid) else { continue };
            for pod in &record.pods {
                let (namespace, claim) = (record.claim.namespace(), record.claim.name());
                let holder = holders.entry(&pod.uid);
                let new = || (&held.gpu, namespace, pod.name.as_str(), BTreeSet::new());
                holder.or_insert_with(new).3.insert(claim);
            }
        }
        for (uid, (gpu, namespace, pod, claims)) in holders {
            let part = f64::from(by_pod.get(uid).copied().unwrap_or_default()) / 100.0;
            let claims = claims.into_iter().collect::<Vec<_>>().join(",");
            use_.insert((gpu, namespace, pod), (claims, part));
        }
    }
    use_
}

fn by_kind<'a>(names: impl Iterator<Item = &'a str>) -> [(Vec<(&'static str, &'static str)>, f64); 4] {
    let mut counts = [("whole", 0), ("shared", 0), ("slot", 0), ("admin", 0)];
    for name in names {
        if let Some((_, count)) = counts.iter_mut().find(|(known, _)| *known == kind(name)) {
            *count += 1;
        }
    }
    counts.map(|(kind, count)| (vec![("kind", kind)], large(count)))
}

/// By the form of the names that the driver gives.
fn kind(name: &str) -> &'static str {
    if name.ends_with("-shared") {
        "shared"
    } else if name.ends_with("-admin") {
        "admin"
    } else if name.contains("-share-") {
        "slot"
    } else {
        "whole"
    }
}

#[cfg(test)]
mod tests {
    use aliquot_model::{DeviceName, Part};

    use super::*;

    #[test]
    fn each_form_of_a_name_is_a_kind_of_its_own() {
        let kinds = [Part::Whole, Part::Shared, Part::Slot(3), Part::Admin]
            .map(|part| kind(DeviceName::of("0000:1b:00.0".parse().unwrap(), part).as_str()));
        assert_eq!(kinds, ["whole", "shared", "slot", "admin"]);
    }
}
