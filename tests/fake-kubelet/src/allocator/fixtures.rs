//! Small objects for the allocator's tests.
use k8s_openapi::api::resource::v1::{Device, DeviceClass, ResourceClaim, ResourceSlice};
use serde_json::{Value, json};

pub(super) const NODE: &str = "node-1";

pub(super) fn gpu(name: &str, product: &str, memory: &str) -> Device {
    let index = name.rsplit('-').next().and_then(|index| index.parse::<i64>().ok()).unwrap_or_default();
    serde_json::from_value(json!({
        "name": name,
        "attributes": {
            "productName": {"string": product}, "index": {"int": index}, "mig": {"bool": false},
            "driverVersion": {"version": "580.65.6"},
            "resource.kubernetes.io/pcieRoot": {"string": format!("pci0000:{:02}", index / 2)},
        },
        "capacity": {"memory": {"value": memory}},
    }))
    .unwrap()
}

pub(super) fn slice(name: &str, devices: Vec<Device>) -> ResourceSlice {
    let mut slice: ResourceSlice = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "driver": "gpu.example.com", "nodeName": NODE,
            "pool": {"name": NODE, "generation": 1, "resourceSliceCount": 1},
        },
    }))
    .unwrap();
    slice.spec.devices = Some(devices);
    slice
}

/// `gpu-0` to `gpu-3`: two H100 with 80 GiB on one PCIe root, and two H200 with 141 GiB on another.
pub(super) fn four_gpus() -> Vec<ResourceSlice> {
    let h100 = (0..2).map(|index| gpu(&format!("gpu-{index}"), "H100", "80Gi"));
    let h200 = (2..4).map(|index| gpu(&format!("gpu-{index}"), "H200", "141Gi"));
    vec![slice("a", h100.chain(h200).collect())]
}

pub(super) fn class(name: &str, config: &Value) -> DeviceClass {
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"selectors": [{"cel": {"expression": r#"device.driver == "gpu.example.com""#}}], "config": config},
    }))
    .unwrap()
}

pub(super) fn claim(devices: &Value) -> ResourceClaim {
    serde_json::from_value(json!({"metadata": {"name": "claim"}, "spec": {"devices": devices}})).unwrap()
}

/// A selector for one product.
pub(super) fn product(name: &str) -> Value {
    json!([{"cel": {"expression": format!(r#"device.attributes["gpu.example.com"].productName == "{name}""#)}}])
}
