//! What a cluster has for pods that ask for `nvidia.com/gpu`, and who holds it.
use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::{
    node::v1::RuntimeClass,
    resource::v1::{DeviceClass, ResourceClaim, ResourceSlice},
};

use super::{RESOURCE, RUNTIME_CLASS};
use crate::testbed::DRIVER;

/// Why the steps can't be taken on a cluster.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Missing {
    /// No class stands for the resource.
    #[error(
        "no DeviceClass stands for {RESOURCE}: kubectl apply -k deploy/overlays/extended-resource for whole GPUs, or \
         deploy/overlays/extended-resource-shares for shares"
    )]
    Class,
    /// Several do, and the scheduler picks one of them.
    #[error("the DeviceClasses {} all stand for {RESOURCE}: leave it to one of them", .0.join(", "))]
    Classes(Vec<String>),
    /// The pods name it.
    #[error("there is no RuntimeClass {RUNTIME_CLASS}: kubectl apply -k deploy/components/runtimeclass")]
    RuntimeClass,
    /// The driver isn't there.
    #[error("{DRIVER} has published no GPU: start aliquot-driver run on a node of the cluster")]
    Gpus,
}

/// Devices by pool and name.
type Key = (String, String);

/// What there is.
#[derive(Debug)]
pub struct Offer {
    class: String,
    gpus: BTreeMap<Key, Gpu>,
}

/// The GPU that a device is, or is a part of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Gpu {
    pub(super) node: String,
    pub(super) uuid: String,
}

impl Offer {
    /// Reads it from what the API server lists.
    ///
    /// # Errors
    ///
    /// What is missing, with the command that makes it.
    pub fn read(classes: &[DeviceClass], runtimes: &[RuntimeClass], slices: &[ResourceSlice]) -> Result<Self, Missing> {
        let stands = |class: &&DeviceClass| {
            let resource = class.spec.as_ref().and_then(|spec| spec.extended_resource_name.as_deref());
            resource == Some(RESOURCE)
        };
        let mut classes: Vec<String> =
            classes.iter().filter(stands).filter_map(|class| class.metadata.name.clone()).collect();
        let class = match (classes.pop(), classes.is_empty()) {
            (Some(class), true) => class,
            (Some(class), false) => return Err(Missing::Classes(classes.into_iter().chain([class]).collect())),
            (None, _) => return Err(Missing::Class),
        };
        if !runtimes.iter().any(|class| class.metadata.name.as_deref() == Some(RUNTIME_CLASS)) {
            return Err(Missing::RuntimeClass);
        }
        let gpus: BTreeMap<Key, Gpu> =
            slices.iter().filter(|slice| slice.spec.driver == DRIVER).flat_map(gpus).collect();
        if gpus.is_empty() { Err(Missing::Gpus) } else { Ok(Self { class, gpus }) }
    }

    /// In words.
    pub(super) fn told(&self) -> String {
        let count = |node: &str| self.gpus.values().filter(|gpu| gpu.node == node).collect::<BTreeSet<_>>().len();
        let nodes: BTreeSet<&str> = self.gpus.values().map(|gpu| gpu.node.as_str()).collect();
        let nodes: Vec<String> = nodes.into_iter().map(|node| format!("{} on {node}", count(node))).collect();
        format!("GPUs of {DRIVER}: {}; {RESOURCE} is DeviceClass {}", nodes.join(", "), self.class)
    }

    /// The GPUs that are allocated to a claim.
    pub(super) fn held(&self, claim: &ResourceClaim) -> BTreeSet<&Gpu> {
        let allocation = claim.status.as_ref().and_then(|status| status.allocation.as_ref());
        let devices = allocation.and_then(|allocation| allocation.devices.as_ref());
        let results = devices.and_then(|devices| devices.results.as_ref()).into_iter().flatten();
        let ours = results.filter(|result| result.driver == DRIVER);
        ours.filter_map(|result| self.gpus.get(&(result.pool.clone(), result.device.clone()))).collect()
    }

    /// How many GPUs of a node none of these claims holds any part of.
    pub(super) fn free(&self, node: &str, claims: &[ResourceClaim]) -> usize {
        let held: BTreeSet<&Gpu> = claims.iter().flat_map(|claim| self.held(claim)).collect();
        let all: BTreeSet<&Gpu> = self.gpus.values().filter(|gpu| gpu.node == node).collect();
        all.difference(&held).count()
    }
}

/// The devices of a slice that are GPUs.
fn gpus(slice: &ResourceSlice) -> impl Iterator<Item = (Key, Gpu)> {
    let node = slice.spec.node_name.clone().unwrap_or_default();
    slice.spec.devices.iter().flatten().filter_map(move |device| {
        let uuid = device.attributes.as_ref()?.get("uuid")?.string.clone()?;
        Some(((slice.spec.pool.name.clone(), device.name.clone()), Gpu { node: node.clone(), uuid }))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    fn class(name: &str, resource: Option<&str>) -> DeviceClass {
        from_value(json!({"metadata": {"name": name}, "spec": {"extendedResourceName": resource}})).unwrap()
    }

    fn runtime() -> RuntimeClass {
        from_value(json!({"metadata": {"name": "nvidia"}, "handler": "runc"})).unwrap()
    }

    fn slice(devices: &[(&str, &str)]) -> ResourceSlice {
        let devices: Vec<Value> = devices
            .iter()
            .map(|(name, uuid)| json!({"name": name, "attributes": {"uuid": {"string": uuid}}}))
            .collect();
        let pool = json!({"name": "p", "generation": 1, "resourceSliceCount": 1});
        let spec = json!({"driver": DRIVER, "nodeName": "n", "pool": pool, "devices": devices});
        from_value(json!({"metadata": {"name": "s"}, "spec": spec})).unwrap()
    }

    fn claim(device: &str) -> ResourceClaim {
        let result = json!({"driver": DRIVER, "pool": "p", "device": device, "request": "r"});
        let status = json!({"allocation": {"devices": {"results": [result]}}});
        from_value(json!({"metadata": {"name": "c"}, "spec": {}, "status": status})).unwrap()
    }

    #[test]
    fn what_is_missing_is_told_with_what_to_do() {
        let read = |classes: &[DeviceClass], runtimes: &[RuntimeClass], slices: &[ResourceSlice]| {
            Offer::read(classes, runtimes, slices).map(|offer| offer.told())
        };
        let (stands, other) = (class("gpu.aliquot.dev", Some(RESOURCE)), class("share.gpu.aliquot.dev", None));
        let missing = read(std::slice::from_ref(&other), &[runtime()], &[slice(&[])]).unwrap_err();
        assert_eq!(missing, Missing::Class);
        assert!(missing.to_string().contains("kubectl apply -k deploy/overlays/extended-resource"));
        let both = [stands.clone(), class("b", Some(RESOURCE))];
        assert_eq!(read(&both, &[], &[]), Err(Missing::Classes(vec!["gpu.aliquot.dev".to_owned(), "b".to_owned()])));
        let classes = [other, stands];
        assert_eq!(read(&classes, &[], &[]), Err(Missing::RuntimeClass));
        assert_eq!(read(&classes, &[runtime()], &[slice(&[])]), Err(Missing::Gpus));
        let told = read(&classes, &[runtime()], &[slice(&[("a", "GPU-1"), ("a-shared", "GPU-1"), ("b", "GPU-2")])]);
        assert_eq!(
            told,
            Ok("GPUs of gpu.aliquot.dev: 2 on n; nvidia.com/gpu is DeviceClass gpu.aliquot.dev".to_owned())
        );
    }

    #[test]
    fn a_gpu_is_held_by_who_holds_it_or_a_share_of_it() {
        let slices = [slice(&[("a", "GPU-1"), ("a-shared", "GPU-1"), ("b", "GPU-2")])];
        let offer = Offer::read(&[class("c", Some(RESOURCE))], &[runtime()], &slices).unwrap();
        let uuids = |device| offer.held(&claim(device)).into_iter().map(|gpu| gpu.uuid.as_str()).collect::<Vec<_>>();
        assert_eq!((uuids("a"), uuids("a-shared"), uuids("x")), (vec!["GPU-1"], vec!["GPU-1"], vec![]));
        assert_eq!(offer.free("n", &[]), 2);
        assert_eq!(offer.free("n", &[claim("a-shared"), claim("a-shared")]), 1);
        assert_eq!(offer.free("n", &[claim("a"), claim("b")]), 0);
    }
}
