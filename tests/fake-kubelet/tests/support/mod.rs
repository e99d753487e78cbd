//! A driver on stock tonic servers, and the little of an API server that a kubelet asks for.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "only tests are compiled with this")]
use std::{
    collections::BTreeMap,
    convert::Infallible,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use fake_kubelet::{Builder, Kubelet};
use http::{Method, Request, Response, StatusCode};
use kube::{Client, client::Body};
use kubelet_api::{
    dra::{v1, v1beta1},
    health::v1alpha1 as health,
    registration::v1 as registration,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    net::UnixListener,
    runtime::{self, Runtime},
    sync::broadcast,
};
use tokio_stream::{Stream, StreamExt, wrappers::UnixListenerStream};
use tonic::{Status, transport::Server};

pub(crate) const DRIVER: &str = "gpu.example.com";

/// Claims by `namespace/name`, and what was asked to be wiped.
#[derive(Clone, Default)]
pub(crate) struct Api {
    claims: Arc<Mutex<BTreeMap<String, Value>>>,
    wipes: Arc<Mutex<Vec<String>>>,
}

impl Api {
    pub(crate) fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let (status, body) = api.answer(&request);
            let response = Response::builder().status(status).body(Body::from(body.to_string().into_bytes())).unwrap();
            async move { Ok::<_, Infallible>(response) }
        });
        Client::new(service, "default")
    }

    fn answer(&self, request: &Request<Body>) -> (StatusCode, Value) {
        let path = request.uri().path();
        let not_found = || {
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "NotFound",
                "message": format!("{path} not found"), "code": 404});
            (StatusCode::NOT_FOUND, status)
        };
        if request.method() == Method::DELETE && path == "/apis/resource.k8s.io/v1/resourceslices" {
            let query = request.uri().query().unwrap_or_default();
            let query = query.replace("%3D", "=").replace("%2C", ",");
            self.wipes.lock().unwrap().push(query);
            return (
                StatusCode::OK,
                json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}),
            );
        }
        let Some(rest) = path.strip_prefix("/apis/resource.k8s.io/v1/namespaces/") else {
            return not_found();
        };
        let key = rest.replace("/resourceclaims/", "/");
        let claims = self.claims.lock().unwrap();
        claims.get(&key).map_or_else(not_found, |claim| (StatusCode::OK, claim.clone()))
    }

    /// What was wiped, as query strings.
    pub(crate) fn wiped(&self) -> Vec<String> {
        self.wipes.lock().unwrap().clone()
    }

    /// A claim with one device of this driver per request, reserved for pods.
    pub(crate) fn allocate(&self, name: &str, uid: &str, pods: &[&str], requests: &[&str]) {
        let results: Vec<_> = requests.iter().map(|r| result(r, DRIVER)).collect();
        self.put(name, uid, pods, &json!({"devices": {"results": results}}));
    }

    pub(crate) fn put(&self, name: &str, uid: &str, pods: &[&str], allocation: &Value) {
        let reserved: Vec<_> = pods.iter().map(|uid| json!({"resource": "pods", "name": uid, "uid": uid})).collect();
        let claim = json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
            "metadata": {"namespace": "ns", "name": name, "uid": uid},
            "spec": {}, "status": {"reservedFor": reserved, "allocation": allocation},
        });
        self.claims.lock().unwrap().insert(format!("ns/{name}"), claim);
    }
}

pub(crate) fn result(request: &str, driver: &str) -> Value {
    json!({"request": request, "driver": driver, "pool": "pool", "device": format!("dev-{request}")})
}

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
struct State {
    behaviour: Arc<Mutex<Behaviour>>,
    calls: Arc<Mutex<Vec<(&'static str, Call)>>>,
    told: Arc<Mutex<Vec<(bool, String)>>>,
    health: broadcast::Sender<Vec<health::DeviceHealth>>,
    endpoint: PathBuf,
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

impl State {
    async fn asked(&self, version: &'static str, call: Call) -> Behaviour {
        self.calls.lock().unwrap().push((version, call));
        let behaviour = self.behaviour.lock().unwrap().clone();
        tokio::time::sleep(behaviour.call_delay).await;
        behaviour
    }
}

fn uids(claims: &[v1::Claim]) -> Vec<String> {
    claims.iter().map(|claim| claim.uid.clone()).collect()
}

#[tonic::async_trait]
impl registration::registration_server::Registration for State {
    async fn get_info(
        &self,
        _: tonic::Request<registration::InfoRequest>,
    ) -> Result<tonic::Response<registration::PluginInfo>, Status> {
        let behaviour = self.behaviour.lock().unwrap().clone();
        tokio::time::sleep(behaviour.info_delay).await;
        Ok(tonic::Response::new(registration::PluginInfo {
            r#type: registration::DRA_PLUGIN.to_owned(),
            name: behaviour.name,
            endpoint: self.endpoint.to_str().unwrap().to_owned(),
            supported_versions: behaviour.versions.into_iter().map(str::to_owned).collect(),
        }))
    }

    async fn notify_registration_status(
        &self,
        request: tonic::Request<registration::RegistrationStatus>,
    ) -> Result<tonic::Response<registration::RegistrationStatusResponse>, Status> {
        let status = request.into_inner();
        self.told.lock().unwrap().push((status.plugin_registered, status.error));
        Ok(tonic::Response::new(registration::RegistrationStatusResponse {}))
    }
}

#[tonic::async_trait]
impl v1::dra_plugin_server::DraPlugin for State {
    async fn node_prepare_resources(
        &self,
        request: tonic::Request<v1::NodePrepareResourcesRequest>,
    ) -> Result<tonic::Response<v1::NodePrepareResourcesResponse>, Status> {
        let claims = request.into_inner().claims;
        let behaviour = self.asked("v1", Call::Prepare(uids(&claims))).await;
        let claims = (behaviour.prepare)(claims)?;
        Ok(tonic::Response::new(v1::NodePrepareResourcesResponse { claims }))
    }

    async fn node_unprepare_resources(
        &self,
        request: tonic::Request<v1::NodeUnprepareResourcesRequest>,
    ) -> Result<tonic::Response<v1::NodeUnprepareResourcesResponse>, Status> {
        let claims = request.into_inner().claims;
        let behaviour = self.asked("v1", Call::Unprepare(uids(&claims))).await;
        let claims = (behaviour.unprepare)(claims)?;
        Ok(tonic::Response::new(v1::NodeUnprepareResourcesResponse { claims }))
    }
}

fn new_claims(claims: Vec<v1beta1::Claim>) -> Vec<v1::Claim> {
    let new = |c: v1beta1::Claim| v1::Claim { namespace: c.namespace, uid: c.uid, name: c.name };
    claims.into_iter().map(new).collect()
}

#[tonic::async_trait]
impl v1beta1::dra_plugin_server::DraPlugin for State {
    async fn node_prepare_resources(
        &self,
        request: tonic::Request<v1beta1::NodePrepareResourcesRequest>,
    ) -> Result<tonic::Response<v1beta1::NodePrepareResourcesResponse>, Status> {
        let claims = new_claims(request.into_inner().claims);
        let behaviour = self.asked("v1beta1", Call::Prepare(uids(&claims))).await;
        let claims = (behaviour.prepare)(claims)?.into_iter().map(|(uid, claim)| {
            let devices = claim.devices.into_iter().map(|d| v1beta1::Device {
                request_names: d.request_names,
                pool_name: d.pool_name,
                device_name: d.device_name,
                cdi_device_ids: d.cdi_device_ids,
            });
            (uid, v1beta1::NodePrepareResourceResponse { devices: devices.collect(), error: claim.error })
        });
        Ok(tonic::Response::new(v1beta1::NodePrepareResourcesResponse { claims: claims.collect() }))
    }

    async fn node_unprepare_resources(
        &self,
        request: tonic::Request<v1beta1::NodeUnprepareResourcesRequest>,
    ) -> Result<tonic::Response<v1beta1::NodeUnprepareResourcesResponse>, Status> {
        let claims = new_claims(request.into_inner().claims);
        let behaviour = self.asked("v1beta1", Call::Unprepare(uids(&claims))).await;
        let claims = (behaviour.unprepare)(claims)?.into_iter();
        let claims = claims.map(|(uid, c)| (uid, v1beta1::NodeUnprepareResourceResponse { error: c.error })).collect();
        Ok(tonic::Response::new(v1beta1::NodeUnprepareResourcesResponse { claims }))
    }
}

#[tonic::async_trait]
impl health::dra_resource_health_server::DraResourceHealth for State {
    type NodeWatchResourcesStream =
        std::pin::Pin<Box<dyn Stream<Item = Result<health::NodeWatchResourcesResponse, Status>> + Send>>;

    async fn node_watch_resources(
        &self,
        _: tonic::Request<health::NodeWatchResourcesRequest>,
    ) -> Result<tonic::Response<Self::NodeWatchResourcesStream>, Status> {
        let reports = tokio_stream::wrappers::BroadcastStream::new(self.health.subscribe());
        let responses = reports.map(|devices| match devices {
            Ok(devices) => Ok(health::NodeWatchResourcesResponse { devices }),
            Err(error) => Err(Status::data_loss(error.to_string())),
        });
        Ok(tonic::Response::new(Box::pin(responses)))
    }
}

/// A kubelet root with an API server beside it.
pub(crate) struct Node {
    pub(crate) dir: TempDir,
    pub(crate) api: Api,
}

impl Node {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), api: Api::default() }
    }

    pub(crate) fn root(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn kubelet(&self) -> Builder {
        Kubelet::builder(self.root(), "node-1", self.api.client()).patience(Duration::from_secs(5))
    }

    pub(crate) fn plugin(&self, socket: &str) -> Plugin {
        Plugin::start(self.root(), socket, "dra.sock", Behaviour::default())
    }
}

/// Waits up to five seconds for something to become true.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within five seconds: {what}");
}
