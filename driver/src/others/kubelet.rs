//! What device plugins have for pods, and what pods hold, in this module's words: from the kubelet's pod-resources socket.
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use kubelet_api::podresources::v1::{ContainerDevices, PodResources};

use super::{
    id,
    judge::{DraDevice, Plugins, Pod},
};
use crate::podresources::{self, Asking, DIR, Error};

/// Where plugins have their sockets, and the kubelet its account of what they registered and pods hold.
const PLUGINS: &str = "device-plugins";

/// For how long one look may take; prepares wait for it.
const DEADLINE: Duration = Duration::from_secs(2);

/// A node's kubelet, by its pod-resources socket.
#[derive(Debug, Clone)]
pub(crate) struct Kubelet {
    root: PathBuf,
}

impl Kubelet {
    /// The one whose root directory this is.
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The directories in which a change may mean another answer.
    pub(super) fn places(&self) -> [PathBuf; 2] {
        [self.root.join(PLUGINS), self.root.join(DIR)]
    }

    /// What there is now, over a connection of its own: it is asked rarely.
    pub(crate) async fn ask(&self) -> Result<Plugins, Error> {
        podresources::within(DEADLINE, self.answers()).await
    }

    async fn answers(&self) -> Result<Plugins, Error> {
        let mut asking = Asking::begin(&self.root).await?;
        let offered = asking.plugins().await?;
        Ok(plugins(&offered, asking.pods().await?))
    }
}

/// What the kubelet's two answers say.
pub(super) fn plugins(offered: &[ContainerDevices], pods: Vec<PodResources>) -> Plugins {
    let mut plugins = Plugins { offered: offered_by(offered), ..Plugins::default() };
    for pod in pods {
        held(&mut plugins, pod);
    }
    plugins
}

fn offered_by(devices: &[ContainerDevices]) -> BTreeSet<(String, id::Named)> {
    let all = devices.iter().flat_map(|devices| devices.device_ids.iter().map(|id| (&devices.resource_name, id)));
    all.filter_map(|(resource, id)| Some((resource.clone(), id::of_plugin(resource, id)?))).collect()
}

fn held(plugins: &mut Plugins, pod: PodResources) {
    let name = Pod { namespace: pod.namespace, name: pod.name };
    for container in pod.containers {
        let devices = offered_by(&container.devices).into_iter();
        plugins.held.extend(devices.map(|(resource, named)| (resource, named, name.clone())));
        let claimed = container.dynamic_resources.into_iter().flat_map(|claim| claim.claim_resources);
        plugins.claimed.extend(claimed.map(|device| {
            let device = DraDevice { driver: device.driver_name, pool: device.pool_name, name: device.device_name };
            (device, name.clone())
        }));
    }
}

/// Whether a change of an entry of this name may mean another answer: what is written under a name with a dot is renamed.
pub(super) fn is_news(name: Option<&str>) -> bool {
    name.is_none_or(|name| !name.starts_with('.'))
}
