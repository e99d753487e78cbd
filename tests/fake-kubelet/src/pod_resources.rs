//! The pod-resources socket: what device plugins have, and what containers use (`pkg/kubelet/apis/podresources`).
use std::{
    fs, io,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use kubelet_api::podresources::v1::{
    AllocatableResourcesRequest, AllocatableResourcesResponse, CdiDevice, ClaimResource, ContainerResources,
    DynamicResource, GetPodResourcesRequest, GetPodResourcesResponse, ListPodResourcesRequest,
    ListPodResourcesResponse, PodResources,
    pod_resources_lister_server::{PodResourcesLister, PodResourcesListerServer},
};
use tokio::{net::UnixListener, task::JoinHandle};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use crate::{claims::Claims, device_plugins::DevicePlugins, kubelet::Pods, pod::PodSpec};

/// Where the kubelet listens, below its root.
const SOCKET: &str = "pod-resources/kubelet.sock";

/// What a caller runs into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ListTrouble {
    /// Nothing: the list comes.
    #[default]
    None,
    /// An error, as of a kubelet that is asked too often.
    Refused,
    /// No answer ever comes.
    Silence,
}

/// What outlives a restart of the kubelet: what tests ask for, and how often what was called.
#[derive(Debug)]
pub(crate) struct Desk {
    trouble: Mutex<ListTrouble>,
    lists: AtomicUsize,
    calls: AtomicUsize,
    pub(crate) plugins: DevicePlugins,
}

impl Desk {
    pub(crate) fn new(root: &Path) -> Self {
        let plugins = DevicePlugins::new(root);
        Self { trouble: Mutex::default(), lists: AtomicUsize::new(0), calls: AtomicUsize::new(0), plugins }
    }

    pub(crate) fn trouble(&self) -> MutexGuard<'_, ListTrouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often the list was asked for.
    pub(crate) fn lists(&self) -> usize {
        self.lists.load(Ordering::Relaxed)
    }

    /// How often anything was asked for.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

/// The server; it ends when this is dropped.
pub(crate) struct Serving {
    task: JoinHandle<()>,
}

impl Serving {
    pub(crate) fn start(root: &Path, claims: Arc<Claims>, pods: Pods, desk: Arc<Desk>) -> io::Result<Self> {
        desk.plugins.begin()?;
        let path = root.join(SOCKET);
        fs::create_dir_all(path.parent().unwrap_or(root))?;
        let _ = fs::remove_file(&path);
        let listener = UnixListenerStream::new(UnixListener::bind(&path)?);
        let lister = Lister { claims, pods, desk };
        let server = Server::builder().add_service(PodResourcesListerServer::new(lister));
        let task = tokio::spawn(async move {
            if let Err(error) = server.serve_with_incoming(listener).await {
                tracing::warn!(%error, "pod resources are no longer served");
            }
        });
        Ok(Self { task })
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // The file stays, as it does when the kubelet ends: whoever starts next replaces it.
        self.task.abort();
    }
}

struct Lister {
    claims: Arc<Claims>,
    pods: Pods,
    desk: Arc<Desk>,
}

#[tonic::async_trait]
impl PodResourcesLister for Lister {
    async fn list(&self, _: Request<ListPodResourcesRequest>) -> Result<Response<ListPodResourcesResponse>, Status> {
        self.desk.lists.fetch_add(1, Ordering::Relaxed);
        self.called().await?;
        let pods: Vec<PodSpec> = self.pods.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        let pod_resources = pods.iter().map(|pod| self.of(pod)).chain(self.desk.plugins.pods()).collect();
        Ok(Response::new(ListPodResourcesResponse { pod_resources }))
    }

    async fn get_allocatable_resources(
        &self,
        _: Request<AllocatableResourcesRequest>,
    ) -> Result<Response<AllocatableResourcesResponse>, Status> {
        self.called().await?;
        Ok(Response::new(AllocatableResourcesResponse { devices: self.desk.plugins.offered(), cpu_ids: vec![] }))
    }

    async fn get(&self, _: Request<GetPodResourcesRequest>) -> Result<Response<GetPodResourcesResponse>, Status> {
        Err(Status::unimplemented("nobody asks this stand-in for one pod"))
    }
}

impl Lister {
    /// Counts a call, and lets it run into what tests ask for.
    async fn called(&self) -> Result<(), Status> {
        self.desk.calls.fetch_add(1, Ordering::Relaxed);
        let trouble = *self.desk.trouble();
        match trouble {
            ListTrouble::None => Ok(()),
            ListTrouble::Refused => Err(Status::resource_exhausted("rejected by rate limit")),
            ListTrouble::Silence => std::future::pending().await,
        }
    }

    /// A claim that the kubelet has not prepared, or has forgotten, is in no list.
    fn of(&self, pod: &PodSpec) -> PodResources {
        let containers = pod.containers.iter().map(|container| {
            let used = container.uses.iter().filter_map(|used| {
                let claim = pod.claims.iter().find(|claim| claim.name == used.claim)?;
                let drivers = self.claims.drivers(&pod.namespace, &claim.claim)?;
                let claim_resources = drivers.into_iter().flat_map(|(driver, devices)| {
                    devices.into_iter().map(move |device| ClaimResource {
                        cdi_devices: device.cdi.into_iter().map(|name| CdiDevice { name }).collect(),
                        driver_name: driver.clone(),
                        pool_name: device.pool,
                        device_name: device.name,
                        share_id: device.share,
                    })
                });
                Some(DynamicResource {
                    claim_name: claim.claim.clone(),
                    claim_namespace: pod.namespace.clone(),
                    claim_resources: claim_resources.collect(),
                })
            });
            ContainerResources {
                name: container.name.clone(),
                dynamic_resources: used.collect(),
                ..ContainerResources::default()
            }
        });
        PodResources { name: pod.name.clone(), namespace: pod.namespace.clone(), containers: containers.collect() }
    }
}
