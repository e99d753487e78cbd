//! Asks the kubelet's pod-resources socket what device plugins have for pods, and what pods hold (KEP-606, KEP-3695).
use std::{
    collections::BTreeSet,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use kubelet_api::podresources::v1::{
    AllocatableResourcesRequest, ContainerDevices, ListPodResourcesRequest, PodResources,
    pod_resources_lister_client::PodResourcesListerClient,
};
use tonic::transport::{Channel, Endpoint};

use super::{
    id,
    judge::{DraDevice, Plugins, Pod},
};

/// The directory of the socket below the kubelet's root, and its name.
const DIR: &str = "pod-resources";
const SOCKET: &str = "kubelet.sock";
/// Where plugins have their sockets, and the kubelet its account of what they registered and pods hold.
const PLUGINS: &str = "device-plugins";

/// For how long one look may take; prepares wait for it.
const DEADLINE: Duration = Duration::from_secs(2);
/// As the kubelet's own client has it: a node's pods with all their CPUs take more than gRPC's usual 4 MiB.
const LARGEST: usize = 16 << 20;

/// Why the kubelet says nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// There is no socket.
    #[error("there is no {}: is --kubelet-root right, and is its directory pod-resources mounted here?", socket.display())]
    Absent {
        /// Where it would be.
        socket: PathBuf,
    },
    /// The path can't be one of a socket.
    #[error("{} can't be named to a client: only UTF-8 can", socket.display())]
    Name {
        /// The path.
        socket: PathBuf,
    },
    /// Nobody listens.
    #[error("{} can't be connected to", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: tonic::transport::Error,
    },
    /// The kubelet refuses.
    #[error("the kubelet doesn't tell what device plugins registered, and what pods hold: {}", .0.message())]
    Refused(#[from] Box<tonic::Status>),
    /// It takes too long.
    #[error("the kubelet gave no answer within {} s", DEADLINE.as_secs())]
    Overdue,
}

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
        tokio::time::timeout(DEADLINE, self.answers()).await.unwrap_or(Err(Error::Overdue))
    }

    async fn answers(&self) -> Result<Plugins, Error> {
        let mut client = PodResourcesListerClient::new(self.connect().await?).max_decoding_message_size(LARGEST);
        let offered = client.get_allocatable_resources(AllocatableResourcesRequest {}).await.map_err(Box::new)?;
        let pods = client.list(ListPodResourcesRequest {}).await.map_err(Box::new)?;
        Ok(plugins(&offered.into_inner().devices, pods.into_inner().pod_resources))
    }

    async fn connect(&self) -> Result<Channel, Error> {
        let socket = self.root.join(DIR).join(SOCKET);
        if matches!(socket.symlink_metadata(), Err(error) if error.kind() == ErrorKind::NotFound) {
            return Err(Error::Absent { socket });
        }
        let Some(path) = socket.to_str() else { return Err(Error::Name { socket }) };
        let connecting = async { Endpoint::from_shared(format!("unix:{path}"))?.connect().await };
        connecting.await.map_err(|source| Error::Connect { socket, source })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_kubelet_without_the_socket_is_told_with_what_to_look_at() {
        let dir = tempfile::tempdir().unwrap();
        let error = Kubelet::new(dir.path()).ask().await.unwrap_err();
        assert!(matches!(error, Error::Absent { .. }) && error.to_string().contains("--kubelet-root"), "{error}");
        std::fs::create_dir(dir.path().join(DIR)).unwrap();
        std::fs::write(dir.path().join(DIR).join(SOCKET), "").unwrap();
        let error = Kubelet::new(dir.path()).ask().await.unwrap_err();
        assert!(matches!(error, Error::Connect { .. }), "{error}");
    }
}
