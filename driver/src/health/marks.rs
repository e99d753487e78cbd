//! Which GPUs are not for new claims since they are ill, and whom their illness costs the pods that they have. Pure.
use std::collections::BTreeMap;

use aliquot_model::{GpuUuid, Inventory, Remedy};

use super::{Ward, ward::Cause};
use crate::{
    args::Eviction,
    offer::taints::{Effect, Mark},
};

/// How they are marked.
#[derive(Debug, Clone)]
pub(crate) struct Marker {
    key: String,
    eviction: Eviction,
}

impl Marker {
    /// For the driver of this name.
    pub(crate) fn new(driver: &str, eviction: Eviction) -> Self {
        Self { key: format!("{driver}/unhealthy"), eviction }
    }

    /// The taint's key.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// Whether the pods that hold a GPU with this illness are evicted.
    pub(crate) fn evicts(&self, cause: &Cause) -> bool {
        self.eviction == Eviction::Fatal && cause.remedy() == Remedy::RestartNode
    }

    /// The mark of GPUs that a virtual machine has and that are not its any more: nothing can run on them.
    pub(crate) fn lost(&self) -> Mark {
        let effect = if self.eviction == Eviction::Fatal { Effect::NoExecute } else { Effect::NoSchedule };
        Mark::new(&self.key, "vfio-gpu-lost", effect)
    }

    /// A mark for each of these.
    pub(crate) fn marks(&self, ill: &BTreeMap<GpuUuid, Cause>) -> impl Iterator<Item = (GpuUuid, Mark)> {
        ill.iter().map(|(gpu, cause)| {
            let effect = if self.evicts(cause) { Effect::NoExecute } else { Effect::NoSchedule };
            (gpu.clone(), Mark::new(&self.key, &cause.name(), effect))
        })
    }
}

/// What each ill GPU suffers from: of those that are known to be ill, and those of which this reading says so. A reading
/// comes to those who offer and to those who keep the ward at once, and nobody is to get a GPU in between.
pub(crate) fn ill(ward: &Ward, inventory: &Inventory) -> BTreeMap<GpuUuid, Cause> {
    let read = inventory.gpus().iter().filter_map(|gpu| {
        let needed = gpu.needs.filter(|needed| !needed.leaves_usable())?;
        Some((gpu.uuid.clone(), Cause::Needs(needed)))
    });
    let known = ward.iter().map(|(gpu, illness)| (gpu.clone(), illness.cause.clone()));
    read.chain(known).collect()
}

#[cfg(test)]
mod tests {
    use aliquot_model::{Gpu, Xid, testing::gpu};
    use aliquot_nvml::{EventKind, GpuEvent};

    use super::*;

    fn heard(bus: u8, xid: u64) -> Ward {
        let event = GpuEvent { gpu: Some(gpu(bus).uuid), kind: EventKind::Xid(Xid(xid)) };
        Ward::default().hear(&event, 0)
    }

    #[test]
    fn what_is_known_and_what_is_read_are_both_marked_and_what_is_known_says_more() {
        let needing = |bus| Gpu { needs: Some(Remedy::ResetGpu), ..gpu(bus) };
        let well = Gpu { needs: Some(Remedy::None), ..gpu(3) };
        let inventory = Inventory::new(vec![needing(1), needing(2), well], vec![]);
        let ill = ill(&heard(1, 95), &inventory);
        let marks: Vec<_> = Marker::new("d", Eviction::Fatal).marks(&ill).collect();
        let mark = |value| Mark::new("d/unhealthy", value, Effect::NoSchedule);
        assert_eq!(marks, [(gpu(1).uuid, mark("xid-95")), (gpu(2).uuid, mark("reset-gpu"))]);
    }

    #[test]
    fn pods_lose_only_gpus_that_serve_nobody_any_more_and_only_where_that_is_wanted() {
        let effect = |eviction, xid| {
            let marks: Vec<_> = Marker::new("d", eviction).marks(&ill(&heard(1, xid), &Inventory::default())).collect();
            marks[0].1 == Mark::new("d/unhealthy", &format!("xid-{xid}"), Effect::NoExecute)
        };
        assert!(effect(Eviction::Fatal, 79));
        assert!(!effect(Eviction::Fatal, 95));
        assert!(!effect(Eviction::Never, 79));
    }
}
