//! Device plugins, as far as the kubelet tells of them: what they have for pods, and which pods hold it.
//!
//! As the kubelet does, each change of what they have, and each new holder, writes the account beside their sockets anew; the
//! end of a pod writes nothing.
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kubelet_api::podresources::v1::{
    ClaimResource, ContainerDevices, ContainerResources, DynamicResource, PodResources,
};

/// The kubelet's account of device plugins and their pods, in their directory.
const CHECKPOINT: &str = "kubelet_internal_checkpoint";

#[derive(Debug, Default)]
struct State {
    offered: BTreeMap<String, Vec<String>>,
    /// By namespace and name.
    pods: BTreeMap<(String, String), ContainerResources>,
}

/// The plugins of one kubelet, and their pods, which the rest of the stand-in doesn't know.
#[derive(Debug, Clone)]
pub struct DevicePlugins {
    dir: PathBuf,
    state: Arc<Mutex<State>>,
}

impl DevicePlugins {
    /// Below a kubelet's root directory.
    pub(crate) fn new(root: &Path) -> Self {
        Self { dir: root.join("device-plugins"), state: Arc::default() }
    }

    /// What a kubelet does at its start: plugins are to register anew, and their pods stay.
    pub(crate) fn begin(&self) -> io::Result<()> {
        self.lock().offered.clear();
        fs::create_dir_all(&self.dir)
    }

    /// What a resource's plugin has for pods; none of it is a plugin that has gone.
    pub fn offer(&self, resource: &str, ids: &[&str]) -> io::Result<()> {
        let ids: Vec<String> = ids.iter().map(|id| (*id).to_owned()).collect();
        self.lock().offered.insert(resource.to_owned(), ids);
        self.write()
    }

    /// A pod gets devices of a plugin.
    pub fn hold(&self, namespace: &str, pod: &str, resource: &str, ids: &[&str]) -> io::Result<()> {
        let device_ids = ids.iter().map(|id| (*id).to_owned()).collect();
        let devices = vec![ContainerDevices { resource_name: resource.to_owned(), device_ids }];
        self.put(namespace, pod, ContainerResources { devices, ..ContainerResources::default() });
        self.write()
    }

    /// A pod gets a device of a DRA driver by a claim; that is in another account.
    pub fn claim(&self, namespace: &str, pod: &str, driver: &str, pool: &str, device: &str) {
        let device = ClaimResource {
            driver_name: driver.to_owned(),
            pool_name: pool.to_owned(),
            device_name: device.to_owned(),
            ..ClaimResource::default()
        };
        let claim = DynamicResource {
            claim_name: "claim".to_owned(),
            claim_namespace: namespace.to_owned(),
            claim_resources: vec![device],
        };
        self.put(
            namespace,
            pod,
            ContainerResources { dynamic_resources: vec![claim], ..ContainerResources::default() },
        );
    }

    /// A pod ends.
    pub fn end(&self, namespace: &str, pod: &str) {
        self.lock().pods.remove(&(namespace.to_owned(), pod.to_owned()));
    }

    /// What there is for pods.
    pub(crate) fn offered(&self) -> Vec<ContainerDevices> {
        let of = |(resource, ids): (&String, &Vec<String>)| ContainerDevices {
            resource_name: resource.clone(),
            device_ids: ids.clone(),
        };
        self.lock().offered.iter().filter(|(_, ids)| !ids.is_empty()).map(of).collect()
    }

    /// The pods that have something of it.
    pub(crate) fn pods(&self) -> Vec<PodResources> {
        let of = |((namespace, name), container): (&(String, String), &ContainerResources)| PodResources {
            name: name.clone(),
            namespace: namespace.clone(),
            containers: vec![container.clone()],
        };
        self.lock().pods.iter().map(of).collect()
    }

    fn put(&self, namespace: &str, pod: &str, container: ContainerResources) {
        let container = ContainerResources { name: "main".to_owned(), ..container };
        self.lock().pods.insert((namespace.to_owned(), pod.to_owned()), container);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> io::Result<()> {
        let new = self.dir.join(format!(".{CHECKPOINT}1"));
        fs::write(&new, "{}")?;
        fs::rename(new, self.dir.join(CHECKPOINT))
    }
}
