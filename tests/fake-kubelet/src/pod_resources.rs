//! The pod-resources socket: what device plugins registered, and what pods hold (`pkg/kubelet/apis/podresources`).
//!
//! Of device plugins there is only what the kubelet tells of them. As the kubelet does, each change of what they have for
//! pods, and each new holder, writes the account beside their sockets anew; the end of a pod writes nothing.
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::stream;
use kubelet_api::podresources::v1::{
    AllocatableResourcesRequest, AllocatableResourcesResponse, ClaimResource, ContainerDevices, ContainerResources,
    DynamicResource, GetPodResourcesRequest, GetPodResourcesResponse, ListPodResourcesRequest,
    ListPodResourcesResponse, PodResources as Resources,
    pod_resources_lister_server::{PodResourcesLister, PodResourcesListerServer},
};
use tokio::{net::UnixListener, task::JoinHandle};
use tonic::{Request, Response, Status, transport::Server};

/// The kubelet's account of device plugins and their pods.
const CHECKPOINT: &str = "device-plugins/kubelet_internal_checkpoint";
const SOCKET: &str = "pod-resources/kubelet.sock";

#[derive(Debug, Default)]
struct State {
    offered: BTreeMap<String, Vec<String>>,
    /// By namespace and name.
    pods: BTreeMap<(String, String), ContainerResources>,
    calls: usize,
}

/// Serves until dropped.
#[derive(Debug)]
pub struct PodResources {
    root: PathBuf,
    state: Arc<Mutex<State>>,
    serving: JoinHandle<()>,
}

impl PodResources {
    /// Below a kubelet's root directory. Must be called within a tokio runtime.
    pub fn start(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root.join("device-plugins"))?;
        fs::create_dir_all(root.join("pod-resources"))?;
        let socket = root.join(SOCKET);
        let _ = fs::remove_file(&socket);
        let state = Arc::<Mutex<State>>::default();
        let service = PodResourcesListerServer::new(Lister(state.clone()));
        let listener = UnixListener::bind(socket)?;
        let incoming = stream::unfold(listener, |listener| async {
            let stream = listener.accept().await.map(|(stream, _)| stream);
            Some((stream, listener))
        });
        let serving = tokio::spawn(async move {
            let _ = Server::builder().add_service(service).serve_with_incoming(incoming).await;
        });
        Ok(Self { root: root.to_owned(), state, serving })
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
        let container = ContainerResources { name: "main".to_owned(), devices, ..ContainerResources::default() };
        self.lock().pods.insert((namespace.to_owned(), pod.to_owned()), container);
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
        let container = ContainerResources {
            name: "main".to_owned(),
            dynamic_resources: vec![claim],
            ..ContainerResources::default()
        };
        self.lock().pods.insert((namespace.to_owned(), pod.to_owned()), container);
    }

    /// A pod ends.
    pub fn end(&self, namespace: &str, pod: &str) {
        self.lock().pods.remove(&(namespace.to_owned(), pod.to_owned()));
    }

    /// How many calls were answered.
    pub fn calls(&self) -> usize {
        self.lock().calls
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> io::Result<()> {
        let (file, new) = (self.root.join(CHECKPOINT), self.root.join("device-plugins/.kubelet_internal_checkpoint1"));
        fs::write(&new, "{}")?;
        fs::rename(new, file)
    }
}

impl Drop for PodResources {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

struct Lister(Arc<Mutex<State>>);

impl Lister {
    fn called(&self) -> MutexGuard<'_, State> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.calls += 1;
        state
    }
}

#[tonic::async_trait]
impl PodResourcesLister for Lister {
    async fn list(&self, _: Request<ListPodResourcesRequest>) -> Result<Response<ListPodResourcesResponse>, Status> {
        let state = self.called();
        let of = |((namespace, name), container): (&(String, String), &ContainerResources)| Resources {
            name: name.clone(),
            namespace: namespace.clone(),
            containers: vec![container.clone()],
        };
        Ok(Response::new(ListPodResourcesResponse { pod_resources: state.pods.iter().map(of).collect() }))
    }

    async fn get_allocatable_resources(
        &self,
        _: Request<AllocatableResourcesRequest>,
    ) -> Result<Response<AllocatableResourcesResponse>, Status> {
        let state = self.called();
        let of = |(resource, ids): (&String, &Vec<String>)| ContainerDevices {
            resource_name: resource.clone(),
            device_ids: ids.clone(),
        };
        let devices = state.offered.iter().filter(|(_, ids)| !ids.is_empty()).map(of).collect();
        Ok(Response::new(AllocatableResourcesResponse { devices, cpu_ids: vec![] }))
    }

    async fn get(&self, _: Request<GetPodResourcesRequest>) -> Result<Response<GetPodResourcesResponse>, Status> {
        Err(Status::unimplemented("nobody asks this stand-in for one pod"))
    }
}
