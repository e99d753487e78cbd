//! Sees to it that nothing of a virtual machine is left on its GPUs: has the kernel reset them, and tells what came of it.
//!
//! vfio-pci resets a GPU itself when a machine lets go of it, and tells nobody whether that worked.
use std::time::Duration;

use aliquot_model::{GpuUuid, PciAddress, Vfio};
use futures::future::join_all;

use super::{Claims, Passed, Record, State};
use crate::{binding::Tried, discovery::View, health::Reset};

/// How long it may take to be known that a GPU is ill.
const NOTED: Duration = Duration::from_secs(1);

impl Claims {
    /// Of what a prepared claim's virtual machine had, while vfio still has it.
    pub(super) async fn reset(&self, record: &Record) {
        if record.state != State::Prepared {
            return;
        }
        let passed = record.devices.iter().filter_map(|held| held.vfio.as_ref());
        join_all(passed.flat_map(groups).map(|(gpu, places)| self.reset_one(gpu, places))).await;
    }

    /// Tries again what didn't work, at each reading of the node's GPUs, as long as nobody holds it.
    pub(crate) async fn reset_again(&self) {
        let (mut unclean, mut read) = (self.health.unclean(), self.read.clone());
        while unclean.wait().await.is_ok() {
            read.mark_unchanged();
            if read.changed().await.is_err() {
                return;
            }
            let records = self.records();
            let is_held =
                |gpu: &GpuUuid| records.iter().flat_map(|record| &record.devices).any(|held| held.gpu == *gpu);
            for gpu in unclean.now().into_iter().filter(|gpu| !is_held(gpu)) {
                let places = self.places(&gpu);
                self.reset_one(gpu, places).await;
            }
        }
    }

    async fn reset_one(&self, gpu: GpuUuid, places: Vec<PciAddress>) {
        let mut known = None;
        for pci in places {
            match self.binder.reset(pci).await {
                Ok(Tried::Reset) => known = known.or(Some(true)),
                Ok(Tried::Not) => {}
                Err(trouble) => {
                    tracing::error!(%pci, error = crate::report(&trouble), "a virtual machine's GPU can't be reset");
                    known = Some(false);
                }
            }
        }
        let Some(worked) = known else { return };
        // Nobody listens any more when the driver ends.
        let is_told = self.resets.send(Reset { gpu: gpu.clone(), worked }).is_ok();
        if is_told && !worked {
            // Whoever waits for the GPU finds it ill.
            let _ = tokio::time::timeout(NOTED, self.health.unclean().until(&gpu)).await;
        }
    }

    /// Where the GPUs are that a UUID stands for; one that nobody holds is with vfio only if it is known by its place.
    fn places(&self, gpu: &GpuUuid) -> Vec<PciAddress> {
        let View::Ready(found) = self.view.borrow().clone() else { return Vec::new() };
        let group = found.inventory.vfio().iter().find(|vfio| GpuUuid::of_place(vfio.gpu.pci) == *gpu);
        group.into_iter().flat_map(Vfio::gpus).map(|gpu| gpu.pci).collect()
    }
}

/// What is known by one UUID and is ill together: GPUs that only sysfs knows by their group, others each for itself.
fn groups(passed: &Passed) -> Vec<(GpuUuid, Vec<PciAddress>)> {
    match (&passed.taken, passed.gpus.first()) {
        (Some(taken), _) => taken.gpus.iter().map(|gpu| (gpu.uuid.clone(), vec![gpu.pci])).collect(),
        (None, Some(first)) => vec![(GpuUuid::of_place(*first), passed.gpus.clone())],
        (None, None) => Vec::new(),
    }
}
