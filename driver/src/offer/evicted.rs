//! GPUs that no longer answer, and whose pods are to be evicted. Pure.
use aliquot_model::{DeviceName, Gpu, Inventory};
use k8s_openapi::api::resource::v1::Device;

use super::{Holding, taints::Marks};

/// What is offered of: what was read, and of those before it the GPUs that pods hold and are to be evicted from.
///
/// kube-controller-manager evicts by what the slices say of a device (KEP-5055), and one that isn't in them can't be
/// tainted. A GPU that has fallen off the bus would be gone from them before that is done.
pub(crate) fn with_evicted(inventory: &Inventory, before: &[Gpu], marks: &Marks, holdings: &[Holding]) -> Inventory {
    let is_here = |gpu: &Gpu| inventory.gpus().iter().any(|here| here.uuid == gpu.uuid || here.pci == gpu.pci);
    let is_held = |gpu: &Gpu| holdings.iter().any(|holding| holding.gpu == gpu.uuid);
    let evicted = before.iter().filter(|gpu| marks.evicting().any(|ill| *ill == gpu.uuid));
    let evicted = evicted.filter(|gpu| is_held(gpu) && !is_here(gpu));
    let gpus = inventory.gpus().iter().chain(evicted).cloned().collect();
    Inventory::new(gpus, inventory.broken().to_vec()).with_vfio(inventory.vfio().to_vec())
}

/// Whether a device is of one of these GPUs, whichever kernel driver has them.
pub(crate) fn is_of(inventory: &Inventory, device: &Device) -> bool {
    let is_here = |name: &DeviceName| inventory.device(name).is_some() || inventory.passthrough(name).is_some();
    device.name.parse::<DeviceName>().is_ok_and(|name| is_here(&name))
}

#[cfg(test)]
mod tests {
    use aliquot_model::{Part, testing::gpu};

    use super::*;
    use crate::offer::{
        taints::{Effect, Mark},
        tests::holding,
    };

    fn places(inventory: &Inventory, effect: Effect, holdings: &[Holding]) -> Vec<String> {
        let marks: Marks = [(gpu(1).uuid, Mark::new("d/k", "xid-79", effect))].into_iter().collect();
        let all = with_evicted(inventory, &[gpu(0), gpu(1)], &marks, holdings);
        all.gpus().iter().map(|gpu| gpu.pci.to_string()).collect()
    }

    #[test]
    fn a_gpu_that_is_gone_stays_for_as_long_as_pods_are_to_be_evicted_from_it() {
        let (none, held) = (Inventory::default(), [holding(0, Part::Whole, 1), holding(1, Part::Whole, 1)]);
        assert_eq!(places(&none, Effect::NoExecute, &held), ["0000:01:00.0"]);
        assert!(places(&none, Effect::NoExecute, &held[..1]).is_empty(), "nobody holds it");
        assert!(places(&none, Effect::NoSchedule, &held).is_empty());
        let here = Inventory::new(vec![gpu(1)], vec![]);
        assert_eq!(places(&here, Effect::NoExecute, &held), ["0000:01:00.0"], "once");
    }
}
