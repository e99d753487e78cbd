//! What the kubelet writes into the status of pods about each device (KEP-4680).
use std::{collections::BTreeSet, time::SystemTime};

use aliquot_model::{DeviceName, Inventory, Part, PciAddress};
use dra_plugin::{DeviceHealth, HealthStatus, slices::PoolName};

use super::{Holding, Offered, names};

/// The health of every device that is offered or held.
pub fn health(
    inventory: &Inventory,
    offered: &Offered,
    holdings: &[Holding],
    pool: &PoolName,
    since: SystemTime,
) -> Vec<DeviceHealth> {
    let known: BTreeSet<DeviceName> = names(offered)
        .into_iter()
        .filter_map(|name| name.parse().ok())
        .chain(holdings.iter().map(|holding| holding.device.clone()))
        .collect();
    let of = |pci: PciAddress, status: HealthStatus, message: &str| {
        let mut devices: BTreeSet<DeviceName> =
            known.iter().filter(|name| name.part_of(pci).is_some()).cloned().collect();
        devices.insert(DeviceName::of(pci, Part::Whole));
        let health = |device: DeviceName| DeviceHealth {
            pool: pool.to_string(),
            device: device.to_string(),
            status,
            since,
            message: message.to_owned(),
        };
        devices.into_iter().map(health).collect::<Vec<_>>()
    };
    let well = inventory.gpus().iter().flat_map(|gpu| of(gpu.pci, HealthStatus::Healthy, ""));
    let broken =
        inventory.broken().iter().filter_map(|gpu| Some(of(gpu.pci?, HealthStatus::Unhealthy, &gpu.reason))).flatten();
    well.chain(broken).collect()
}
