//! Small values for the tests of this module.
use k8s_openapi::api::resource::v1::Device;

use super::{NodeName, Pool, PoolName};
use crate::name::DriverName;

pub(super) fn driver() -> DriverName {
    DriverName::new("gpu.example.com").unwrap()
}

pub(super) fn node() -> NodeName {
    NodeName::new("node-1").unwrap()
}

pub(super) fn device(name: &str) -> Device {
    Device { name: name.to_owned(), ..Device::default() }
}

pub(super) fn pool(devices: &[&str]) -> Pool {
    let devices = devices.iter().map(|name| device(name)).collect();
    Pool { devices, ..Pool::empty(PoolName::new("gpu.example.com/node-1").unwrap()) }
}
