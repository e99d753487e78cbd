//! Puts the parts together, and starts and stops them in the order that the kubelet needs.
use std::{
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use kubelet_api::{
    dra::{v1, v1beta1},
    health::v1alpha1,
    registration::v1::registration_server::RegistrationServer,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Error as TransportError, Server};

use crate::{
    authority::LocalAuthority,
    driver::Driver,
    fetch::Fetcher,
    health::{DeviceHealth, HealthService},
    incoming::connections,
    name::{DriverName, InvalidDriverName},
    observer::Observer,
    registration::{Registration, RegistrationService},
    runner::{Runner, Turns},
    service::Service,
    socket::{Socket, SocketError, SocketPaths, orphans},
};

/// Where the kubelet keeps its files unless it was told otherwise.
const KUBELET_ROOT: &str = "/var/lib/kubelet";
/// Ten seconds less than the kubelet's own deadline, for what ends late and for the way back.
const BUDGET: Duration = Duration::from_secs(35);
/// What is possible without the kubelet giving up before it has the answer.
const LONGEST_BUDGET: Duration = Duration::from_secs(38);
const MESSAGE_SIZE: usize = 4 << 20;
/// How long claims in work may take to end at shutdown.
const DRAIN: Duration = Duration::from_secs(10);
/// How long the kubelet's last registration call may take to end at shutdown.
const DRAIN_REGISTRAR: Duration = Duration::from_secs(1);
/// More calls at once than a node has pods.
const MOST_CALLS: u32 = 1024;

/// Why a plugin cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The driver's name is none.
    #[error(transparent)]
    Name(#[from] InvalidDriverName),
    /// A socket cannot be named as it would have to be.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Nothing to fetch claims with was given.
    #[error("no Kubernetes client was given to fetch claims with")]
    NoClient,
    /// The budget is none, or the kubelet would give up before it is spent.
    #[error(
        "a budget of {given:?} per call is not possible: the kubelet waits 45 s, so give it more than 0 s and at most {LONGEST_BUDGET:?}"
    )]
    Budget {
        /// What was given.
        given: Duration,
    },
}

/// Why a plugin ended without being asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A socket cannot be served.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A server failed.
    #[error("the gRPC server of the {which} socket failed")]
    Server {
        /// Which socket's.
        which: &'static str,
        /// How.
        source: TransportError,
    },
    /// A server ended for no reason.
    #[error("the gRPC server of the {which} socket ended by itself")]
    Ended {
        /// Which socket's.
        which: &'static str,
    },
}

/// A DRA driver's node plugin, ready to run.
pub struct Plugin<D> {
    name: DriverName,
    paths: SocketPaths,
    runner: Arc<Runner<D>>,
    /// Whether there is somebody who keeps the health up; the contract is served either way.
    has_health: bool,
    health: watch::Receiver<Vec<DeviceHealth>>,
    registration: watch::Sender<Registration>,
    message_size: usize,
}

impl Plugin<()> {
    /// Begins a plugin for the driver `name`, such as `gpu.example.com`.
    pub fn builder(name: &str) -> Result<Builder, BuildError> {
        Ok(Builder {
            name: DriverName::new(name)?,
            kubelet_root: KUBELET_ROOT.into(),
            instance: None,
            health: None,
            client: None,
            observer: Arc::new(()),
            budget: BUDGET,
            message_size: MESSAGE_SIZE,
        })
    }
}

/// What a [`Plugin`] is made from.
pub struct Builder {
    name: DriverName,
    kubelet_root: PathBuf,
    instance: Option<String>,
    health: Option<watch::Receiver<Vec<DeviceHealth>>>,
    client: Option<kube::Client>,
    observer: Arc<dyn Observer>,
    budget: Duration,
    message_size: usize,
}

impl Builder {
    /// The kubelet's `--root-dir`, by default `/var/lib/kubelet`. It must be the same path for the kubelet and for this
    /// process, as the kubelet is told the name of the socket.
    pub fn kubelet_root(mut self, root: impl AsRef<Path>) -> Self {
        root.as_ref().clone_into(&mut self.kubelet_root);
        self
    }

    /// Gives this instance sockets of its own, so that another one can run beside it during a rolling update
    /// (Kubernetes 1.33 and later). The driver must then stand two instances at once.
    pub fn rolling_update(mut self, pod_uid: impl Into<String>) -> Self {
        self.instance = Some(pod_uid.into());
        self
    }

    /// The health of all devices, which the kubelet shows in the status of pods. Once the sender is gone, the kubelet
    /// takes the devices as unknown.
    pub fn health(mut self, devices: watch::Receiver<Vec<DeviceHealth>>) -> Self {
        self.health = Some(devices);
        self
    }

    /// What claims are fetched with; required. Retries are this crate's, so those of the client
    /// ([`kube::Config::default_retry`]) had better be off.
    pub fn claims(mut self, client: kube::Client) -> Self {
        self.client = Some(client);
        self
    }

    /// Who is told of each call and of each claim that fails; nobody by default.
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = observer;
        self
    }

    /// How long a call may try before it says what keeps it, by default 35 s and at most 38 s of the kubelet's 45 s.
    pub fn budget(mut self, budget: Duration) -> Self {
        self.budget = budget;
        self
    }

    /// The largest message that is taken, in bytes; by default 4 MiB.
    pub fn message_size(mut self, bytes: usize) -> Self {
        self.message_size = bytes;
        self
    }

    /// Checks everything that can be checked without touching the node.
    pub fn build<D: Driver>(self, driver: D) -> Result<Plugin<D>, BuildError> {
        if self.budget.is_zero() || self.budget > LONGEST_BUDGET {
            return Err(BuildError::Budget { given: self.budget });
        }
        let paths = SocketPaths::new(&self.kubelet_root, &self.name, self.instance.as_deref())?;
        let fetcher = Fetcher::new(self.client.ok_or(BuildError::NoClient)?, self.name.clone());
        Ok(Plugin {
            name: self.name,
            paths,
            runner: Arc::new(Runner::new(driver, fetcher, self.observer, self.budget)),
            has_health: self.health.is_some(),
            health: self.health.unwrap_or_else(|| watch::channel(Vec::new()).1),
            registration: watch::Sender::default(),
            message_size: self.message_size,
        })
    }
}

impl<D: Driver> Plugin<D> {
    /// What the kubelet makes of this plugin, for a readiness check.
    pub fn registration(&self) -> watch::Receiver<Registration> {
        self.registration.subscribe()
    }

    /// The order in which claims are worked on, for a driver that cleans up after the kubelet.
    pub fn turns(&self) -> Turns {
        self.runner.turns()
    }

    /// Serves until `shutdown`, then lets claims in work end, for 10 s at most.
    ///
    /// The kubelet hears of the plugin only when it can serve, and stops choosing it before it cannot. An error means that
    /// the plugin is of no use any more; the process should end.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), RunError> {
        let (stop_dra, stop_registrar) = (CancellationToken::new(), CancellationToken::new());
        let dra = self.serve_dra(stop_dra.clone())?;
        let registrar = self.serve_registrar(stop_registrar.clone())?;
        tokio::pin!(dra, registrar);
        tracing::info!(
            driver = %self.name, dra = self.paths.dra.as_str(), registration = self.paths.registration.as_str(),
            "serving the kubelet"
        );
        let result = tokio::select! {
            biased;
            () = shutdown.cancelled() => Ok(()),
            () = orphans::remove(self.paths.clone(), self.name.to_string()) => Ok(()),
            ended = &mut dra => Err(premature("DRA", ended)),
            ended = &mut registrar => Err(premature("registration", ended)),
        };
        if result.is_ok() {
            stop_registrar.cancel();
            let _ = tokio::time::timeout(DRAIN_REGISTRAR, registrar).await;
            stop_dra.cancel();
            let (_, left) = tokio::join!(tokio::time::timeout(DRAIN, dra), self.runner.finish(DRAIN));
            if left > 0 {
                tracing::warn!("{left} claims are still in work at the end");
            }
        }
        result
    }

    fn serve_dra(
        &self,
        stop: CancellationToken,
    ) -> Result<impl Future<Output = Result<(), TransportError>> + use<D>, SocketError> {
        let socket = Socket::bind(&self.paths.dra)?;
        let service = Service::new(Arc::clone(&self.runner));
        let health = HealthService::new(self.health.clone(), stop.clone());
        let size = self.message_size;
        let router = Server::builder()
            .max_concurrent_streams(MOST_CALLS)
            .add_service(v1::dra_plugin_server::DraPluginServer::new(service.clone()).max_decoding_message_size(size))
            .add_service(v1beta1::dra_plugin_server::DraPluginServer::new(service).max_decoding_message_size(size))
            .add_service(v1alpha1::dra_resource_health_server::DraResourceHealthServer::new(health));
        let incoming = connections(socket, self.paths.dra.clone(), || {});
        Ok(router.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()))
    }

    fn serve_registrar(
        &self,
        stop: CancellationToken,
    ) -> Result<impl Future<Output = Result<(), TransportError>> + use<D>, SocketError> {
        use futures::StreamExt;
        let socket = Socket::bind(&self.paths.registration)?;
        let versions = [Some(v1::SERVICE), Some(v1beta1::SERVICE), self.has_health.then_some(v1alpha1::SERVICE)];
        let service = RegistrationService::new(
            self.name.as_str(),
            self.paths.dra.as_str(),
            versions.into_iter().flatten(),
            self.registration.clone(),
        );
        let registration = self.registration.clone();
        let incoming = connections(socket, self.paths.registration.clone(), move || {
            registration.send_replace(Registration::Waiting);
        })
        .map(|accepted| accepted.map(LocalAuthority::new));
        let router = Server::builder().add_service(RegistrationServer::new(service));
        Ok(router.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()))
    }
}

fn premature(which: &'static str, ended: Result<(), TransportError>) -> RunError {
    match ended {
        Ok(()) => RunError::Ended { which },
        Err(source) => RunError::Server { which, source },
    }
}
