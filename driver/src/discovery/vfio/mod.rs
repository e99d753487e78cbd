//! What this node can give to virtual machines: NVIDIA's GPUs in sysfs, by IOMMU group.
//!
//! ```text
//! /sys/bus/pci/devices ─> NVIDIA's GPUs ─> their groups ─> all members (function) ─> judge (group, pure) ─> Vfio
//! ```
pub(super) mod away;
pub(crate) mod function;
mod group;
mod names;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use aliquot_model::{Away, Binding, DeviceId, IommuGroup, Vfio, VfioGpu};
use function::Function;

use super::sysfs;
use crate::roots::Roots;

/// By address; empty where the IOMMU is off.
pub(super) fn find(roots: &Roots) -> Vec<Vfio> {
    let sys = &roots.sys;
    // Without an IOMMU nothing can be given away; and most nodes need not be looked at any further.
    if function::names(&sys.join("kernel/iommu_groups")).next().is_none() {
        return Vec::new();
    }
    let gpus = function::addresses(&sys.join("bus/pci/devices"))
        .into_iter()
        .filter(|pci| function::is_nvidias(sys, *pci))
        .filter_map(|pci| Function::read(sys, pci))
        .filter(Function::is_gpu);
    let groups: BTreeSet<IommuGroup> = gpus.filter_map(|gpu| gpu.group).collect();
    let judged: Vec<(IommuGroup, Vec<Function>, Binding)> = groups
        .into_iter()
        .filter_map(|number| {
            let members = members(roots, number);
            let binding = group::judge(&members)?;
            let binding = if binding == Binding::Bound { with_nodes(roots, number, &members) } else { binding };
            Some((number, members, binding))
        })
        .collect();
    let gpus = judged.iter().flat_map(|(_, members, _)| members).filter(|member| member.is_gpu());
    let wanted: BTreeSet<DeviceId> = gpus.map(|gpu| gpu.device).collect();
    let names = names::of(&roots.driver, &wanted);
    let iommufd = roots.dev.join("iommu").exists();
    let found = judged.into_iter().filter_map(|(group, members, binding)| {
        let functions = group::changing(&members);
        let mut gpus = members.into_iter().filter(Function::is_gpu).map(|gpu| {
            let place = sysfs::place(sys, gpu.pci);
            let Function { pci, vendor, device, driver, cdev, largest, .. } = gpu;
            let product_name = names.get(&device).cloned().unwrap_or_else(|| format!("{vendor}:{device}"));
            let (pcie_root, numa_node) = (place.pcie_root, place.numa_node);
            VfioGpu { pci, vendor, device, product_name, driver, cdev, pcie_root, numa_node, addressable: largest }
        });
        Some(Vfio { group, gpu: gpus.next()?, more: gpus.collect(), binding, iommufd, functions })
    });
    let mut found: Vec<Vfio> = found.collect();
    found.sort_by_key(|vfio| vfio.gpu.pci);
    found
}

/// A bound group can be had through its node, or that of each GPU in it.
fn with_nodes(roots: &Roots, group: IommuGroup, members: &[Function]) -> Binding {
    let node = roots.dev.join("vfio").join(group.to_string());
    let has_own =
        |gpu: &Function| gpu.cdev.as_ref().is_some_and(|name| roots.dev.join("vfio/devices").join(name).exists());
    if node.exists() || members.iter().filter(|member| member.is_gpu()).all(has_own) {
        return Binding::Bound;
    }
    Binding::Unusable(format!("there is no {}, though a vfio driver has the GPU; see lsmod and dmesg", node.display()))
}

/// All functions of a group, by address.
pub(crate) fn members(roots: &Roots, group: IommuGroup) -> Vec<Function> {
    let dir = roots.sys.join("kernel/iommu_groups").join(group.to_string()).join("devices");
    function::addresses(&dir).into_iter().filter_map(|pci| Function::read(&roots.sys, pci)).collect()
}

/// Whether virtual machines have the GPUs here, or are about to, and NVIDIA's driver has none: its library has nothing to
/// tell then.
pub(super) fn is_all(found: &[Vfio], away: &[Away]) -> bool {
    let is_away = |vfio: &&Vfio| away.iter().any(|away| away.group == vfio.group);
    let (taken, others): (Vec<&Vfio>, Vec<&Vfio>) = found.iter().partition(is_away);
    let drivers: BTreeSet<&str> =
        others.into_iter().flat_map(Vfio::gpus).filter_map(|gpu| gpu.driver.as_deref()).collect();
    let is_passed = !taken.is_empty() || drivers.iter().any(|driver| function::is_vfio_driver(driver));
    is_passed && !drivers.contains(group::NVIDIA)
}
