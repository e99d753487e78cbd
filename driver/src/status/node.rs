//! What `status` reads of the node's GPUs: NVML, procfs, and which ones the driver has written down as ill.
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use aliquot_model::{Gpu, GpuUuid, Inventory, IommuGroup, Memory, PciAddress, Vfio, VfioGpu};
use aliquot_nvml::{Patience, Sample, Session};

use crate::{
    discovery::{self, Library, vfio::function::is_vfio_driver},
    health::{self, Chart},
    roots::Roots,
    sharing::guard::{Pid, Procfs},
};

/// The node's GPUs.
#[derive(Debug, Clone, Default)]
pub(super) struct NodeSeen {
    pub(super) gpus: Vec<GpuSeen>,
    /// Why they can't be read.
    pub(super) trouble: Option<String>,
}

/// One GPU.
#[derive(Debug, Clone)]
pub(super) struct GpuSeen {
    /// NVML's; none where NVIDIA's driver doesn't have it.
    pub(super) index: Option<u32>,
    pub(super) uuid: Option<GpuUuid>,
    pub(super) pci: Option<PciAddress>,
    pub(super) product_name: Option<String>,
    pub(super) driver_version: Option<String>,
    pub(super) memory: Option<Memory>,
    /// Why nobody new gets it, or why it doesn't answer.
    pub(super) trouble: Option<String>,
    pub(super) sample: Sample,
    /// Where a vfio driver has it, with all of this group.
    pub(super) group: Option<IommuGroup>,
    /// None where they can't be listed, or not be traced.
    pub(super) processes: Option<Vec<Process>>,
}

/// One process on a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    /// The UID of its pod.
    pub(super) pod: Option<String>,
    pub(super) used: Option<Memory>,
    /// Per cent of the SMs' time.
    pub(super) sm: Option<u32>,
}

/// A GPU that takes longer to answer shows nothing.
const EACH: Duration = Duration::from_millis(500);

/// Reads the node again and again through one session.
pub(super) struct Eyes {
    library: Library,
    settings: discovery::Settings,
    procfs: Procfs,
    boot_id: String,
}

impl Eyes {
    /// On the node at these roots.
    pub(super) fn open(roots: Roots, boot_id: String, deadline: Duration) -> Self {
        let procfs = Procfs::open(&roots.proc, None);
        let processes = procfs.sight().is_ok();
        // Nothing is offered by what is read here.
        let settings = discovery::Settings { roots, deadline, interval: Duration::MAX, hard_limits: false, processes };
        Self { library: Library::default(), settings, procfs, boot_id }
    }

    /// Everything as it is now.
    pub(super) async fn look(&mut self) -> NodeSeen {
        let found = match discovery::read(&mut self.library, Session::Keep, &self.settings, Vec::new).await {
            Ok(found) => found.inventory,
            Err(error) => return NodeSeen { gpus: Vec::new(), trouble: Some(crate::report(&error)) },
        };
        let run = &self.settings.roots.run;
        let ward = Chart::look(run, &self.boot_id).unwrap_or_default();
        let ill = health::ill(&ward, &found);
        let (samples, processes) = self.measure(found.gpus()).await;
        let well = found.gpus().iter().map(|gpu| GpuSeen {
            index: Some(gpu.index),
            uuid: Some(gpu.uuid.clone()),
            pci: Some(gpu.pci),
            product_name: Some(gpu.product_name.clone()),
            driver_version: Some(gpu.driver_version.clone()),
            memory: Some(gpu.memory),
            trouble: ill.get(&gpu.uuid).map(health::Cause::explained),
            sample: samples.get(&gpu.uuid).cloned().unwrap_or_default(),
            group: None,
            processes: processes.get(&gpu.uuid).cloned(),
        });
        let broken = found.broken().iter().map(|gpu| GpuSeen {
            index: Some(gpu.index),
            uuid: None,
            pci: gpu.pci,
            product_name: None,
            driver_version: None,
            memory: None,
            trouble: Some(gpu.reason.clone()),
            sample: Sample::default(),
            group: None,
            processes: None,
        });
        let mut gpus: Vec<GpuSeen> = well.chain(broken).collect();
        gpus.sort_by_key(|gpu| gpu.index);
        gpus.extend(passed(&found));
        NodeSeen { gpus, trouble: None }
    }

    async fn measure(&self, gpus: &[Gpu]) -> (BTreeMap<GpuUuid, Sample>, BTreeMap<GpuUuid, Vec<Process>>) {
        let Some(questions) = self.library.questions() else { return (BTreeMap::new(), BTreeMap::new()) };
        let (deadline, uuids) =
            (self.settings.deadline, || gpus.iter().map(|gpu| gpu.uuid.clone()).collect::<Vec<_>>());
        let patience = Patience { each: EACH.min(deadline), all: deadline };
        let samples = questions.samples(uuids(), patience).await.unwrap_or_default();
        let samples = samples.into_iter().filter_map(|sampled| Some((sampled.gpu, sampled.sample.ok()?)));
        let samples: BTreeMap<GpuUuid, Sample> = samples.collect();
        if !self.settings.processes {
            return (samples, BTreeMap::new());
        }
        let lists = questions.processes(uuids(), deadline).await.unwrap_or_default();
        let lists = lists.into_iter().filter_map(|list| {
            let busy = samples.get(&list.gpu).and_then(|sample| sample.processes.as_ref());
            let busy: Option<BTreeMap<u32, u32>> =
                busy.map(|all| all.iter().map(|process| (process.pid, process.sm)).collect());
            let process = |process: aliquot_nvml::GpuProcess| Process {
                pod: self.procfs.pod(Pid(process.pid)).ok().flatten().map(|pod| pod.to_string()),
                used: process.used,
                // Those that did nothing are in no list.
                sm: busy.as_ref().map(|busy| busy.get(&process.pid).copied().unwrap_or_default()),
            };
            Some((list.gpu, list.processes.ok()?.into_iter().map(process).collect()))
        });
        let lists = lists.collect();
        (samples, lists)
    }
}

/// The GPUs that vfio drivers have, by place, and NVML knows nothing of.
fn passed(found: &Inventory) -> Vec<GpuSeen> {
    let listed = found.gpus().iter().map(|gpu| Some(gpu.pci)).chain(found.broken().iter().map(|gpu| gpu.pci));
    let listed: BTreeSet<PciAddress> = listed.flatten().collect();
    let is_passed = |gpu: &&VfioGpu| !listed.contains(&gpu.pci) && gpu.driver.as_deref().is_some_and(is_vfio_driver);
    let seen = |vfio: &Vfio, gpu: &VfioGpu| GpuSeen {
        index: None,
        // It stands for the whole group.
        uuid: (gpu.pci == vfio.gpu.pci).then(|| GpuUuid::of_place(gpu.pci)),
        pci: Some(gpu.pci),
        product_name: Some(gpu.product_name.clone()),
        driver_version: None,
        memory: None,
        trouble: vfio.binding.trouble().map(ToOwned::to_owned),
        sample: Sample::default(),
        group: Some(vfio.group),
        processes: None,
    };
    found.vfio().iter().flat_map(|vfio| vfio.gpus().filter(is_passed).map(|gpu| seen(vfio, gpu))).collect()
}

#[cfg(test)]
mod tests {
    use aliquot_model::{
        Binding,
        testing::{gpu, vfio, vfio_gpu},
    };

    use super::*;

    #[test]
    fn gpus_of_vfio_drivers_are_seen_once_each_with_their_group() {
        let more = vec![vfio_gpu(0x42, "vfio-pci")];
        let nvidias = Vfio { gpu: vfio_gpu(0x43, "nvidia"), binding: Binding::Switchable, ..vfio(0x43) };
        let found = Inventory::new(vec![gpu(0x43), gpu(0x44)], vec![]);
        let found = found.with_vfio(vec![Vfio { more, ..vfio(0x41) }, nvidias, vfio(0x44)]);
        let seen: Vec<(u8, bool, u32)> = passed(&found)
            .into_iter()
            .map(|gpu| (gpu.pci.unwrap().bus(), gpu.uuid.is_some(), gpu.group.unwrap().0))
            .collect();
        assert_eq!(seen, [(0x41, true, 0x41), (0x42, false, 0x41)]);
    }
}
