//! A driver on stock tonic servers, and how it behaves.
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use kubelet_api::{
    dra::{v1, v1beta1},
    health::v1alpha1 as health,
    registration::v1 as registration,
};
use tokio::{
    net::UnixListener,
    runtime::{self, Runtime},
    sync::broadcast,
};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Status, transport::Server};

use super::DRIVER;

/// What a driver was asked, with the claims' UIDs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Call {
    Prepare(Vec<String>),
    Unprepare(Vec<String>),
}

type Answer<T> = Arc<dyn Fn(Vec<v1::Claim>) -> Result<BTreeMap<String, T>, Status> + Send + Sync>;

/// How a driver behaves.
#[derive(Clone)]
pub(crate) struct Behaviour {
    pub(crate) name: String,
    pub(crate) versions: Vec<&'static str>,
    pub(crate) prepare: Answer<v1::NodePrepareResourceResponse>,
    pub(crate) unprepare: Answer<v1::NodeUnprepareResourceResponse>,
    pub(crate) info_delay: Duration,
    pub(crate) call_delay: Duration,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            name: DRIVER.to_owned(),
            versions: vec!["v1.DRAPlugin", "v1beta1.DRAPlugin"],
            prepare: Arc::new(|claims| {
                Ok(claims.into_iter().map(|c| (c.uid.clone(), prepared(&c, &["gpu"]))).collect())
            }),
            unprepare: Arc::new(|claims| {
                Ok(claims.into_iter().map(|c| (c.uid, v1::NodeUnprepareResourceResponse::default())).collect())
            }),
            info_delay: Duration::ZERO,
            call_delay: Duration::ZERO,
        }
    }
}

/// An answer with one device per request.
pub(crate) fn prepared(claim: &v1::Claim, requests: &[&str]) -> v1::NodePrepareResourceResponse {
    let device = |request: &&str| v1::Device {
        request_names: vec![(*request).to_owned()],
        pool_name: "pool".to_owned(),
        device_name: format!("dev-{request}"),
        cdi_device_ids: vec![format!("example.com/gpu={}-{request}", claim.uid)],
        share_id: None,
    };
    v1::NodePrepareResourceResponse { devices: requests.iter().map(device).collect(), error: String::new() }
}

/// A running driver. Dropping it is a crash: its sockets stay.
pub(crate) struct Plugin {
    pub(crate) registration: PathBuf,
    pub(crate) endpoint: PathBuf,
    state: State,
    /// Its own, as only the end of a runtime ends the connections that tonic's servers have accepted.
    process: Option<Runtime>,
}

#[derive(Clone)]
pub(crate) struct State {
    pub(crate) behaviour: Arc<Mutex<Behaviour>>,
    pub(crate) calls: Arc<Mutex<Vec<(&'static str, Call)>>>,
    pub(crate) told: Arc<Mutex<Vec<(bool, String)>>>,
    pub(crate) health: broadcast::Sender<Vec<health::DeviceHealth>>,
    pub(crate) endpoint: PathBuf,
}

impl Plugin {
    pub(crate) fn start(root: &Path, socket: &str, dra: &str, behaviour: Behaviour) -> Self {
        let registration = root.join("plugins_registry").join(socket);
        let endpoint = root.join("plugins").join(dra);
        for path in [&registration, &endpoint] {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let _ = std::fs::remove_file(path);
        }
        let state = State {
            behaviour: Arc::new(Mutex::new(behaviour)),
            calls: Arc::default(),
            told: Arc::default(),
            health: broadcast::Sender::new(8),
            endpoint: endpoint.clone(),
        };
        let process = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let entered = process.enter();
        let dra = Server::builder()
            .add_service(v1::dra_plugin_server::DraPluginServer::new(state.clone()))
            .add_service(v1beta1::dra_plugin_server::DraPluginServer::new(state.clone()))
            .add_service(health::dra_resource_health_server::DraResourceHealthServer::new(state.clone()));
        let listener = UnixListenerStream::new(UnixListener::bind(&endpoint).unwrap());
        process.spawn(async move { dra.serve_with_incoming(listener).await.unwrap() });
        let registrar =
            Server::builder().add_service(registration::registration_server::RegistrationServer::new(state.clone()));
        let listener = UnixListenerStream::new(UnixListener::bind(&registration).unwrap());
        process.spawn(async move { registrar.serve_with_incoming(listener).await.unwrap() });
        drop(entered);
        Self { registration, endpoint, state, process: Some(process) }
    }

    /// The method and what it asked for, with the contract version.
    pub(crate) fn calls(&self) -> Vec<(&'static str, Call)> {
        self.state.calls.lock().unwrap().clone()
    }

    /// What `NotifyRegistrationStatus` said.
    pub(crate) fn told(&self) -> Vec<(bool, String)> {
        self.state.told.lock().unwrap().clone()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.state.behaviour.lock().unwrap());
    }

    pub(crate) fn report(&self, devices: Vec<health::DeviceHealth>) {
        let _ = self.state.health.send(devices);
    }

    pub(crate) fn watchers(&self) -> usize {
        self.state.health.receiver_count()
    }

    /// An orderly end.
    pub(crate) fn unregister(self) {
        std::fs::remove_file(&self.registration).unwrap();
    }

    pub(crate) fn crash(self) {
        drop(self);
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.process.take().unwrap().shutdown_background();
    }
}
