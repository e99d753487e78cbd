//! Checks `device-classes` and `other-drivers`: claims can find these GPUs, and nobody else hands them out.
use std::collections::BTreeMap;

use aliquot_model::Inventory;
use k8s_openapi::api::{
    core::v1::Node,
    resource::v1::{DeviceClass, ResourceSlice},
};

use super::{
    api::Answer,
    check::{Check, some},
};
use crate::others::{Heard, Other, Plugins, Published, judge};

const CLASSES: &str = "device-classes";
const OTHERS: &str = "other-drivers";

/// NVIDIA's DRA driver for GPUs.
const NVIDIAS: &str = "gpu.nvidia.com";
/// Of everything that NVIDIA's device plugin counts.
const PLUGINS: &str = "nvidia.com/";

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

/// What is asked of the node and the cluster; `plugins` is why not, where the kubelet can't be asked.
pub(super) struct Sources<'a> {
    pub(super) driver: &'a str,
    pub(super) node: &'a str,
    pub(super) plugins: Result<Plugins, String>,
    pub(super) object: &'a Answer<Option<Node>>,
    pub(super) slices: &'a Answer<Vec<ResourceSlice>>,
    pub(super) inventory: Option<&'a Inventory>,
}

pub(super) fn drivers(sources: Sources<'_>) -> Check {
    let Sources { driver, node, plugins, object, slices, inventory } = sources;
    let published = slices.as_ref().map(|slices| Published::of(driver, slices)).unwrap_or_default();
    let (plugins, unasked) = match plugins {
        Ok(plugins) => (plugins, None),
        Err(error) => (Plugins::default(), Some(error)),
    };
    let heard = Heard { plugins, published };
    let elsewhere = inventory.map(|inventory| judge(inventory, &heard)).unwrap_or_default();
    let mut others: BTreeMap<Other, Option<usize>> =
        elsewhere.unplaced.into_iter().map(|other| (other, None)).collect();
    for other in elsewhere.gpus.into_values().flat_map(|others| others.by) {
        *others.entry(other).or_default().get_or_insert_default() += 1;
    }
    // Known for GPUs, wherever they are.
    let known = slices.iter().flatten().any(|slice| slice.spec.driver == NVIDIAS && driver != NVIDIAS);
    others.extend(
        known
            .then(|| Other::Driver(NVIDIAS.to_owned()))
            .filter(|other| !others.contains_key(other))
            .map(|other| (other, None)),
    );
    // The node's figures stand where it can't be seen which GPUs they are of.
    if unasked.is_some() || inventory.is_none() {
        let resources = object.iter().flatten().flat_map(counted);
        others.extend(resources.map(|(resource, amount)| (Other::Plugin(resource), Some(amount))));
    }
    let found: Vec<String> = others
        .iter()
        .map(|(other, count)| match count {
            Some(count) => format!("{other} ({count})"),
            None => other.to_string(),
        })
        .collect();
    if !others.is_empty() {
        let mut remedies: Vec<String> = others.keys().map(|other| other.remedy(node)).collect();
        remedies.dedup();
        let fix = format!(
            "{}; or leave GPUs to them by a rule with offer: [] in the policy file. If resources stay after a plugin has gone, \
             restart the kubelet. Pods that ask for nvidia.com/gpu are served by deploy/overlays/extended-resource",
            remedies.join("; ")
        );
        return Check::warning(OTHERS, format!("others hand out GPUs of this node too: {}", some(&found)), fix);
    }
    if let Some(error) = unasked {
        let found =
            format!("device plugins can't be seen, and the driver can't keep GPUs from two pods at once: {error}");
        let fix = "set --kubelet-root to the kubelet's --root-dir, mount its directory pod-resources into the driver's pod at \
                   the same path, and let the kubelet serve it (it does unless a feature gate was turned off)";
        return Check::warning(OTHERS, found, fix);
    }
    match (object, slices) {
        (Err(error), _) | (_, Err(error)) => Check::skipped(OTHERS, error.reason.clone()),
        (Ok(_), Ok(_)) => Check::ok(OTHERS, "nobody else hands out GPUs of this node"),
    }
}

/// What a device plugin has for pods on the node.
fn counted(node: &Node) -> Vec<(String, usize)> {
    let all = node.status.iter().flat_map(|status| status.allocatable.iter().flatten());
    let some = all.filter(|(name, amount)| name.starts_with(PLUGINS) && amount.0 != "0");
    some.map(|(name, amount)| (name.clone(), amount.0.parse().unwrap_or_default())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        doctor::{api::Unanswered, check::Verdict},
        offer::tests::gpu,
        others::testing::slice,
    };

    const DRIVER: &str = "gpu.aliquot.dev";

    #[allow(clippy::unnecessary_wraps, reason = "it is judged as what may fail")]
    fn node(allocatable: &Value) -> Answer<Option<Node>> {
        Ok(Some(serde_json::from_value(json!({"metadata": {}, "status": {"allocatable": allocatable}})).unwrap()))
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

    fn found(
        driver: &str,
        plugins: Result<Plugins, &str>,
        object: &Answer<Option<Node>>,
        slices: &Answer<Vec<ResourceSlice>>,
        inventory: Option<&Inventory>,
    ) -> Check {
        let plugins = plugins.map_err(str::to_owned);
        drivers(Sources { driver, node: "node1", plugins, object, slices, inventory })
    }

    #[test]
    fn a_device_plugin_is_told_by_its_devices_and_else_by_what_the_node_counts() {
        let counts = node(&json!({"cpu": "8", "nvidia.com/gpu": "8"}));
        let check = found(DRIVER, Err("no socket"), &counts, &Ok(vec![]), None);
        assert_eq!(check.verdict, Verdict::Warning);
        assert!(check.found.contains("the device plugin of nvidia.com/gpu (8)"), "{}", check.found);
        assert!(check.fix.unwrap().contains("kubectl label node node1 nvidia.com/gpu.deploy.device-plugin=false"));
        let gone = node(&json!({"nvidia.com/gpu": "0"}));
        let blind = found(DRIVER, Err("no socket"), &gone, &Ok(vec![]), None);
        assert!(blind.verdict == Verdict::Warning && blind.found.ends_with("no socket"), "{}", blind.found);
        assert_eq!(found(DRIVER, Ok(Plugins::default()), &gone, &Ok(vec![]), None).verdict, Verdict::Ok);
        let inventory = Inventory::new(vec![gpu(0x41)], vec![]);
        let asked = |plugins| found(DRIVER, Ok(plugins), &counts, &Ok(vec![]), Some(&inventory));
        assert_eq!(asked(Plugins::default()).verdict, Verdict::Ok, "it hands out others' GPUs");
        let check = asked(Plugins::of_gpu("example.com/renamed", &gpu(0x41)));
        assert!(check.found.contains("the device plugin of example.com/renamed (1)"), "{}", check.found);
    }

    #[test]
    fn another_driver_is_told_by_its_name_or_by_the_gpus_place() {
        let none = node(&json!({}));
        let inventory = Inventory::new(vec![gpu(0x41)], vec![]);
        let verdict = |ours: &str, driver: &str, pci: &str| {
            let slices = Ok(vec![slice("a", driver, pci), slice("b", ours, "0000:41:00.0")]);
            found(ours, Ok(Plugins::default()), &none, &slices, Some(&inventory)).verdict
        };
        assert_eq!(verdict(DRIVER, "gpu.nvidia.com", "0000:99:00.0"), Verdict::Warning);
        assert_eq!(verdict(DRIVER, "gpu.example.com", "0000:41:00.0"), Verdict::Warning);
        assert_eq!(verdict(DRIVER, "nic.example.com", "0000:99:00.0"), Verdict::Ok);
        assert_eq!(verdict("gpu.nvidia.com", "gpu.nvidia.com", "0000:41:00.0"), Verdict::Ok);
        let away = Err(Unanswered::away("no"));
        assert_eq!(found(DRIVER, Ok(Plugins::default()), &none, &away, None).verdict, Verdict::Skipped);
        let plugins = Plugins::of_gpu("nvidia.com/gpu", &gpu(0x41));
        let check = found(DRIVER, Ok(plugins), &none, &away, Some(&inventory));
        assert_eq!(check.verdict, Verdict::Warning, "what the kubelet says needs no API server");
    }
}
