//! What `status` reads of the node's GPUs: NVML, procfs, and which ones the driver has written down as ill.
use std::{collections::BTreeMap, time::Duration};

use aliquot_model::{Gpu, GpuUuid, Memory, PciAddress};
use aliquot_nvml::{Glance, Session};

use crate::{
    discovery::{self, Library},
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
    pub(super) index: u32,
    pub(super) uuid: Option<GpuUuid>,
    pub(super) pci: Option<PciAddress>,
    pub(super) product_name: Option<String>,
    pub(super) driver_version: Option<String>,
    pub(super) memory: Option<Memory>,
    /// Why nobody new gets it, or why it doesn't answer.
    pub(super) trouble: Option<String>,
    pub(super) glance: Glance,
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
        let found = match discovery::read(&mut self.library, Session::Keep, &self.settings).await {
            Ok(found) => found.inventory,
            Err(error) => return NodeSeen { gpus: Vec::new(), trouble: Some(crate::report(&error)) },
        };
        let run = &self.settings.roots.run;
        let ward = Chart::look(run, &self.boot_id).unwrap_or_default();
        let ill = health::ill(&ward, &found);
        let (glances, processes) = self.measure(found.gpus()).await;
        let well = found.gpus().iter().map(|gpu| GpuSeen {
            index: gpu.index,
            uuid: Some(gpu.uuid.clone()),
            pci: Some(gpu.pci),
            product_name: Some(gpu.product_name.clone()),
            driver_version: Some(gpu.driver_version.clone()),
            memory: Some(gpu.memory),
            trouble: ill.get(&gpu.uuid).map(health::Cause::explained),
            glance: glances.get(&gpu.uuid).cloned().unwrap_or_default(),
            processes: processes.get(&gpu.uuid).cloned(),
        });
        let broken = found.broken().iter().map(|gpu| GpuSeen {
            index: gpu.index,
            uuid: None,
            pci: gpu.pci,
            product_name: None,
            driver_version: None,
            memory: None,
            trouble: Some(gpu.reason.clone()),
            glance: Glance::default(),
            processes: None,
        });
        let mut gpus: Vec<GpuSeen> = well.chain(broken).collect();
        gpus.sort_by_key(|gpu| gpu.index);
        NodeSeen { gpus, trouble: None }
    }

    async fn measure(&self, gpus: &[Gpu]) -> (BTreeMap<GpuUuid, Glance>, BTreeMap<GpuUuid, Vec<Process>>) {
        let Some(questions) = self.library.questions() else { return (BTreeMap::new(), BTreeMap::new()) };
        let (deadline, uuids) =
            (self.settings.deadline, || gpus.iter().map(|gpu| gpu.uuid.clone()).collect::<Vec<_>>());
        let glances = questions.glances(uuids(), deadline).await.unwrap_or_default();
        let glances = glances.into_iter().filter_map(|glanced| Some((glanced.gpu, glanced.glance.ok()?)));
        let glances: BTreeMap<GpuUuid, Glance> = glances.collect();
        if !self.settings.processes {
            return (glances, BTreeMap::new());
        }
        let lists = questions.processes(uuids(), deadline).await.unwrap_or_default();
        let lists = lists.into_iter().filter_map(|list| {
            let busy = glances.get(&list.gpu).and_then(|glance| glance.processes.as_ref());
            let process = |process: aliquot_nvml::GpuProcess| Process {
                pod: self.procfs.pod(Pid(process.pid)).ok().flatten().map(|pod| pod.to_string()),
                used: process.used,
                // Those that did nothing are in no list.
                sm: busy.map(|busy| busy.get(&process.pid).copied().unwrap_or_default()),
            };
            Some((list.gpu, list.processes.ok()?.into_iter().map(process).collect()))
        });
        let lists = lists.collect();
        (glances, lists)
    }
}
