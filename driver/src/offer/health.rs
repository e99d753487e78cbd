//! What the kubelet writes into the status of pods about each device (KEP-4680).
use std::{
    collections::{BTreeMap, BTreeSet},
    time::SystemTime,
};

use aliquot_model::{Binding, DeviceName, GpuUuid, Inventory, Part, PciAddress, Vfio};
use dra_plugin::{DeviceHealth, HealthStatus, slices::PoolName};

use super::{Holding, Offered, names};

/// The health of every device that is offered or held: unhealthy are those of GPUs that are ill, for the reason that is
/// given, those of GPUs that don't answer, and what is held of GPUs that aren't there.
pub fn health(
    inventory: &Inventory,
    offered: &Offered,
    holdings: &[Holding],
    ill: &BTreeMap<GpuUuid, String>,
    pool: &PoolName,
    since: SystemTime,
) -> Vec<DeviceHealth> {
    let held = holdings.iter().map(|holding| holding.device.clone());
    let known: BTreeSet<DeviceName> =
        names(offered).into_iter().filter_map(|name| name.parse().ok()).chain(held).collect();
    let health = |device: DeviceName, trouble: Option<&str>| DeviceHealth {
        pool: pool.to_string(),
        device: device.to_string(),
        status: if trouble.is_some() { HealthStatus::Unhealthy } else { HealthStatus::Healthy },
        since,
        message: trouble.unwrap_or_default().to_owned(),
    };
    let of = |pci: PciAddress, trouble: Option<&str>| {
        let mut devices: BTreeSet<DeviceName> =
            known.iter().filter(|name| name.part_of(pci).is_some()).cloned().collect();
        devices.insert(DeviceName::of(pci, Part::Whole));
        devices.into_iter().map(|device| health(device, trouble)).collect::<Vec<_>>()
    };
    let passed = inventory.vfio().iter().filter(|vfio| known.contains(&vfio.name()));
    let lost = |vfio: &Vfio| ill.get(&GpuUuid::of_place(vfio.gpu.pci)).map(String::as_str);
    let trouble = |vfio| trouble_of(vfio, inventory).or_else(|| lost(vfio));
    let passed: Vec<DeviceHealth> = passed.map(|vfio| health(vfio.name(), trouble(vfio))).collect();
    let here = inventory.gpus().iter().flat_map(|gpu| of(gpu.pci, ill.get(&gpu.uuid).map(String::as_str)));
    let broken = inventory.broken().iter().filter_map(|gpu| Some(of(gpu.pci?, Some(&gpu.reason)))).flatten();
    let mut all: Vec<DeviceHealth> = here.chain(broken).chain(passed).collect();
    let told: BTreeSet<String> = all.iter().map(|health| health.device.clone()).collect();
    let gone = holdings.iter().filter(|holding| !told.contains(holding.device.as_str()));
    let gone: BTreeMap<&DeviceName, &str> = gone
        .map(|holding| (&holding.device, ill.get(&holding.gpu).map_or("the GPU is no longer there", String::as_str)))
        .collect();
    all.extend(gone.into_iter().map(|(device, why)| health(device.clone(), Some(why))));
    all
}

/// Why a virtual machine can't use what it has.
fn trouble_of<'a>(vfio: &'a Vfio, inventory: &Inventory) -> Option<&'a str> {
    match &vfio.binding {
        Binding::Bound => None,
        // It is taken from NVIDIA's driver when a claim is prepared.
        Binding::Switchable if inventory.of_group(vfio).is_some() => None,
        Binding::Switchable => Some("no vfio driver of the kernel has the GPU any more"),
        Binding::Unusable(reason) => Some(reason),
    }
}
