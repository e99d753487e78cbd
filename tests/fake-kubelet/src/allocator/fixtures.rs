//! Small objects for the allocator's tests.
use k8s_openapi::api::resource::v1::{Device, DeviceClass, ResourceClaim, ResourceSlice};
use serde_json::{Value, json};

use super::{Cluster, Features, InUse, Unallocatable, allocate};

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

/// A claim to which a whole device is allocated.
pub(super) fn held(device: &str) -> ResourceClaim {
    let result = json!({"request": "r", "driver": "gpu.example.com", "pool": NODE, "device": device});
    allocated(&json!([result]))
}

/// A claim with the results of an allocation.
pub(super) fn allocated(results: &Value) -> ResourceClaim {
    let status = json!({"allocation": {"devices": {"results": results}}});
    serde_json::from_value(json!({"metadata": {"name": "claim"}, "spec": {}, "status": status})).unwrap()
}

/// GPUs that are allocated whole, as `gpu-0`, or in shares, as `gpu-0-shared`; a counter in a slice of its own lets only
/// one of the two be in use. A share takes 8 of 80 GiB and 1 of 10 shares unless it asks for more.
pub(super) fn whole_or_shared(gpus: usize) -> Vec<ResourceSlice> {
    let devices = (0..gpus).flat_map(|index| {
        let name = format!("gpu-{index}");
        let counter = json!([{"counterSet": name, "counters": {"whole": {"value": "1"}}}]);
        let mut whole = gpu(&name, "H100", "80Gi");
        whole.consumes_counters = serde_json::from_value(counter).unwrap();
        let mut many =
            Device { name: format!("{name}-shared"), allow_multiple_allocations: Some(true), ..whole.clone() };
        let range = json!({"min": "1Gi", "max": "80Gi", "step": "1Gi"});
        let memory = json!({"value": "80Gi", "requestPolicy": {"default": "8Gi", "validRange": range}});
        let shares = json!({"value": "10", "requestPolicy": {"default": "1", "validRange": {"min": "1", "step": "1"}}});
        many.capacity = serde_json::from_value(json!({"memory": memory, "shares": shares})).unwrap();
        [whole, many]
    });
    let mut counters = slice("b-counters", Vec::new());
    let sets = (0..gpus).map(|index| json!({"name": format!("gpu-{index}"), "counters": {"whole": {"value": "1"}}}));
    counters.spec.shared_counters = serde_json::from_value(sets.collect()).unwrap();
    let mut slices = vec![slice("a-devices", devices.collect()), counters];
    for slice in &mut slices {
        slice.spec.pool.resource_slice_count = 2;
    }
    slices
}

/// Classes `whole` and `shared` for them.
pub(super) fn whole_and_shared() -> [DeviceClass; 2] {
    [("whole", "!device.allowMultipleAllocations"), ("shared", "device.allowMultipleAllocations")].map(
        |(name, expression)| {
            let mut class = class(name, &Value::Null);
            let selectors = json!([{"cel": {"expression": expression}}]);
            class.spec.get_or_insert_default().selectors = serde_json::from_value(selectors).unwrap();
            class
        },
    )
}

/// A cluster in which one claim after the other is allocated.
pub(super) struct Bed {
    pub(super) slices: Vec<ResourceSlice>,
    pub(super) features: Features,
    claims: Vec<ResourceClaim>,
}

impl Bed {
    pub(super) fn new(slices: Vec<ResourceSlice>) -> Self {
        Self { slices, features: Features::default(), claims: Vec::new() }
    }

    /// Allocates a claim, and says what it got.
    pub(super) fn results(&mut self, devices: &Value) -> Result<Vec<Value>, Unallocatable> {
        let in_use = InUse::by(&self.claims)?;
        let cluster = Cluster {
            slices: &self.slices,
            classes: &whole_and_shared(),
            in_use: &in_use,
            node: NODE,
            features: self.features,
        };
        let allocation = allocate(&claim(devices), cluster)?;
        let results = serde_json::to_value(allocation.devices.unwrap().results).unwrap();
        self.claims.push(allocated(&results));
        Ok(results.as_array().unwrap().clone())
    }

    /// The same as `request=device`.
    pub(super) fn picked(&mut self, devices: &Value) -> Result<Vec<String>, Unallocatable> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let results = self.results(devices)?.into_iter();
        Ok(results.map(|result| format!("{}={}", text(&result["request"]), text(&result["device"]))).collect())
    }

    /// The claim that was allocated as the `at`th is so no more.
    pub(super) fn release(&mut self, at: usize) {
        self.claims.remove(at);
    }
}

/// A request for one class, with more terms.
pub(super) fn request(name: &str, class: &str, mut terms: Value) -> Value {
    terms["deviceClassName"] = json!(class);
    json!({"name": name, "exactly": terms})
}

/// A claim's only request, `r`.
pub(super) fn only(class: &str, terms: Value) -> Value {
    json!({"requests": [request("r", class, terms)]})
}
