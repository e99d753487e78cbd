//! Checks `device-classes` and `other-drivers`: claims can find these GPUs, and nobody else hands them out.
use std::collections::BTreeSet;

use aliquot_model::Inventory;
use k8s_openapi::api::{
    core::v1::Node,
    resource::v1::{DeviceClass, ResourceSlice},
};

use super::{
    api::Answer,
    check::{Check, some},
};

const CLASSES: &str = "device-classes";
const OTHERS: &str = "other-drivers";

/// NVIDIA's DRA driver for GPUs.
const NVIDIAS: &str = "gpu.nvidia.com";
/// Of everything that NVIDIA's device plugin counts.
const PLUGINS: &str = "nvidia.com/";
const PCI: &str = "resource.kubernetes.io/pciBusID";

pub(super) fn classes(driver: &str, classes: &Answer<Vec<DeviceClass>>) -> Check {
    let classes = match classes {
        Ok(classes) => classes,
        Err(error) if error.is_forbidden => {
            let reason = "this user may not list them, and the driver need not: see kubectl get deviceclasses";
            return Check::skipped(CLASSES, reason);
        }
        Err(error) => return Check::skipped(CLASSES, error.reason.clone()),
    };
    let name = format!("\"{driver}\"");
    let ours = classes.iter().filter(|class| {
        let mut selectors = class.spec.iter().flat_map(|spec| spec.selectors.iter().flatten());
        selectors.any(|selector| selector.cel.as_ref().is_some_and(|cel| cel.expression.contains(&name)))
    });
    let ours: Vec<String> = ours.filter_map(|class| class.metadata.name.clone()).collect();
    if ours.is_empty() {
        let fix = "kubectl apply -k deploy/base, or make DeviceClasses whose selectors name this driver";
        return Check::warning(CLASSES, format!("no DeviceClass selects devices of {driver}"), fix);
    }
    Check::ok(CLASSES, some(&ours))
}

pub(super) fn drivers(
    driver: &str,
    node: &Answer<Option<Node>>,
    slices: &Answer<Vec<ResourceSlice>>,
    inventory: Option<&Inventory>,
) -> Check {
    let (node, slices) = match (node, slices) {
        (Ok(node), Ok(slices)) => (node, slices),
        (Err(error), _) | (_, Err(error)) => return Check::skipped(OTHERS, error.reason.clone()),
    };
    let counted = node.as_ref().map(counted).unwrap_or_default();
    if !counted.is_empty() {
        return Check::warning(
            OTHERS,
            format!("a device plugin hands out GPUs of this node too: {}", some(&counted)),
            "keep it off this node (with the GPU operator: kubectl label node NODE nvidia.com/gpu.deploy.device-plugin=false \
             --overwrite), then restart the kubelet if the resources stay; pods that ask for nvidia.com/gpu are served by \
             deploy/overlays/extended-resource",
        );
    }
    let others = publishers(driver, slices, inventory);
    if !others.is_empty() {
        return Check::warning(
            OTHERS,
            format!("another DRA driver publishes GPUs of this node: {}", some(&others)),
            "keep it off this node, or its GPUs off it: NVIDIA's chart has kubeletPlugin.affinity and resources.gpus.enabled",
        );
    }
    Check::ok(OTHERS, "nobody else publishes GPUs of this node")
}

/// What a device plugin has for pods on the node.
fn counted(node: &Node) -> Vec<String> {
    let all = node.status.iter().flat_map(|status| status.allocatable.iter().flatten());
    let some = all.filter(|(name, amount)| name.starts_with(PLUGINS) && amount.0 != "0");
    some.map(|(name, amount)| format!("{name}: {}", amount.0)).collect()
}

/// Other drivers whose slices have these GPUs by their place on the PCI bus, or that are known for GPUs.
fn publishers(driver: &str, slices: &[ResourceSlice], inventory: Option<&Inventory>) -> Vec<String> {
    let ours: BTreeSet<String> =
        inventory.iter().flat_map(|inventory| inventory.gpus()).map(|gpu| gpu.pci.to_string()).collect();
    let is_ours = |slice: &ResourceSlice| {
        slice.spec.devices.iter().flatten().any(|device| {
            let place = device.attributes.as_ref().and_then(|all| all.get(PCI)?.string.as_ref());
            place.is_some_and(|place| ours.contains(place))
        })
    };
    let others = slices.iter().filter(|slice| slice.spec.driver != driver);
    let others = others.filter(|slice| slice.spec.driver == NVIDIAS || is_ours(slice));
    others.map(|slice| slice.spec.driver.clone()).collect::<BTreeSet<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        doctor::{api::Unanswered, check::Verdict},
        offer::tests::gpu,
    };

    const DRIVER: &str = "gpu.aliquot.dev";

    #[allow(clippy::unnecessary_wraps, reason = "it is judged as what may fail")]
    fn node(allocatable: &Value) -> Answer<Option<Node>> {
        Ok(Some(serde_json::from_value(json!({"metadata": {}, "status": {"allocatable": allocatable}})).unwrap()))
    }

    fn slice(driver: &str, pci: &str) -> ResourceSlice {
        let device = json!({"name": "x", "attributes": {PCI: {"string": pci}}});
        let pool = json!({"name": "p", "generation": 1, "resourceSliceCount": 1});
        let spec = json!({"driver": driver, "pool": pool, "devices": [device]});
        serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap()
    }

    fn class(name: &str, expression: &str) -> DeviceClass {
        let spec = json!({"selectors": [{"cel": {"expression": expression}}]});
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
    }

    #[test]
    fn classes_are_those_that_select_this_driver() {
        let theirs = class("gpu.nvidia.com", "device.driver == \"gpu.nvidia.com\"");
        let check = classes(DRIVER, &Ok(vec![theirs.clone()]));
        assert!(check.verdict == Verdict::Warning && check.fix.unwrap().contains("deploy/base"));
        let check = classes(DRIVER, &Ok(vec![theirs, class("mine", "device.driver == \"gpu.aliquot.dev\"")]));
        assert_eq!(check, Check::ok(CLASSES, "mine"));
        let forbidden = Unanswered { is_forbidden: true, ..Unanswered::away("no") };
        assert_eq!(classes(DRIVER, &Err(forbidden)).verdict, Verdict::Skipped);
    }

    #[test]
    fn a_device_plugin_that_counts_gpus_is_told() {
        let check = drivers(DRIVER, &node(&json!({"cpu": "8", "nvidia.com/gpu": "8"})), &Ok(vec![]), None);
        assert_eq!(check.verdict, Verdict::Warning);
        assert!(check.found.contains("nvidia.com/gpu: 8") && check.fix.unwrap().contains("device-plugin=false"));
        let gone = node(&json!({"nvidia.com/gpu": "0"}));
        assert_eq!(drivers(DRIVER, &gone, &Ok(vec![]), None).verdict, Verdict::Ok);
    }

    #[test]
    fn another_driver_is_told_by_its_name_or_by_the_gpus_place() {
        let none = node(&json!({}));
        let inventory = Inventory::new(vec![gpu(0x41)], vec![]);
        let found = |driver: &str, pci: &str| {
            drivers(DRIVER, &none, &Ok(vec![slice(driver, pci), slice(DRIVER, "0000:41:00.0")]), Some(&inventory))
                .verdict
        };
        assert_eq!(found("gpu.nvidia.com", "0000:99:00.0"), Verdict::Warning);
        assert_eq!(found("gpu.example.com", "0000:41:00.0"), Verdict::Warning);
        assert_eq!(found("nic.example.com", "0000:99:00.0"), Verdict::Ok);
        let own =
            drivers("gpu.nvidia.com", &none, &Ok(vec![slice("gpu.nvidia.com", "0000:41:00.0")]), Some(&inventory));
        assert_eq!(own.verdict, Verdict::Ok);
        assert_eq!(drivers(DRIVER, &none, &Err(Unanswered::away("no")), None).verdict, Verdict::Skipped);
    }
}
