//! What this node offers: the inventory as the devices of one pool. Pure.
mod attributes;

use std::time::SystemTime;

use aliquot_model::{DeviceName, Gpu, Inventory};
use dra_plugin::{
    DeviceHealth, DriverName, HealthStatus,
    slices::{InvalidName, NodeName, PoolName},
};
use k8s_openapi::api::resource::v1::Device;

/// The pool's name: unique over all drivers, since schedulers before the middle of 2026 key their counter cache by the
/// pool's name alone.
pub fn pool_name(driver: &DriverName, node: &NodeName) -> Result<PoolName, InvalidName> {
    PoolName::new(format!("{driver}/{node}"))
}

/// Each GPU that answers as a whole device, in the order of names, so that the same hardware always gives the same pool.
pub fn devices(inventory: &Inventory) -> Vec<Device> {
    let mut devices: Vec<Device> = inventory.gpus().iter().map(whole).collect();
    devices.sort_by(|a, b| a.name.cmp(&b.name));
    devices
}

fn whole(gpu: &Gpu) -> Device {
    Device {
        name: gpu.whole_name().as_str().to_owned(),
        attributes: Some(attributes::of_whole(gpu)),
        capacity: Some(attributes::capacity(gpu)),
        ..Device::default()
    }
}

/// What the kubelet writes into the status of pods about each device (KEP-4680).
pub fn health(inventory: &Inventory, pool: &PoolName, since: SystemTime) -> Vec<DeviceHealth> {
    let health = |device: DeviceName, status, message: &str| DeviceHealth {
        pool: pool.to_string(),
        device: device.to_string(),
        status,
        since,
        message: message.to_owned(),
    };
    let well = inventory.gpus().iter().map(|gpu| health(gpu.whole_name(), HealthStatus::Healthy, ""));
    let broken = inventory
        .broken()
        .iter()
        .filter_map(|gpu| Some(health(DeviceName::whole(gpu.pci?), HealthStatus::Unhealthy, &gpu.reason)));
    well.chain(broken).collect()
}

#[cfg(test)]
mod tests {
    use aliquot_model::BrokenGpu;

    use super::*;

    #[test]
    fn the_pool_is_named_after_driver_and_node() {
        let (driver, node) = (DriverName::new("gpu.example.com").unwrap(), NodeName::new("node-1.example").unwrap());
        assert_eq!(pool_name(&driver, &node).unwrap().as_str(), "gpu.example.com/node-1.example");
    }

    #[test]
    fn a_gpu_that_does_not_answer_is_not_offered_and_unhealthy() {
        let broken = |index, pci: Option<&str>| BrokenGpu {
            index,
            pci: pci.map(|pci| pci.parse().unwrap()),
            reason: "it is lost".into(),
        };
        let inventory = Inventory::new(vec![], vec![broken(0, Some("0000:41:00.0")), broken(1, None)]);
        assert!(devices(&inventory).is_empty());
        let health = health(&inventory, &PoolName::new("p").unwrap(), SystemTime::UNIX_EPOCH);
        assert_eq!((health.len(), health[0].device.as_str()), (1, "gpu-0000-41-00"));
        assert_eq!((health[0].status, health[0].message.as_str()), (HealthStatus::Unhealthy, "it is lost"));
    }
}
