//! The server itself, and how a test talks to it beside HTTP.
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::Value;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use crate::{
    discovery::Version,
    faults::{Fault, Trouble},
    held::Held,
    permissions::{Asked, Permissions, Rule},
    routes,
    store::Store,
};

/// The server can't listen.
#[derive(Debug, thiserror::Error)]
#[error("the API stand-in can't listen on 127.0.0.1")]
pub struct StartError(#[from] io::Error);

/// Settings of a [`Server`].
#[derive(Debug, Clone, Default)]
pub struct Builder {
    dropped: Vec<(String, String)>,
    version: Version,
}

impl Builder {
    /// The version that `/version` tells, such as `v1.36.2`.
    pub fn version(mut self, version: &str) -> Self {
        self.version = Version(version.to_owned());
        self
    }

    /// Does not store a field of a resource, as if its feature were off: `("resourceslices",
    /// "spec.devices[].allowMultipleAllocations")`.
    pub fn drop_field(mut self, resource: &str, path: &str) -> Self {
        self.dropped.push((resource.to_owned(), path.to_owned()));
        self
    }

    /// Starts on a free port.
    pub async fn start(self) -> Result<Server, StartError> {
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            store: Mutex::new(Store::new(self.dropped)),
            faults: Mutex::default(),
            denied: Mutex::default(),
            permissions: Mutex::default(),
            held: Mutex::default(),
            counts: Mutex::default(),
            watches: watch::Sender::new(0),
            version: self.version,
        });
        let router = routes::router(Arc::clone(&shared));
        let task = tokio::spawn(async move {
            // It ends when the task is aborted.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Server { address, shared, task })
    }
}

/// What all requests share.
pub(crate) struct Shared {
    store: Mutex<Store>,
    faults: Mutex<Vec<Fault>>,
    denied: Mutex<BTreeSet<(String, String)>>,
    permissions: Mutex<Permissions>,
    held: Mutex<BTreeMap<String, Held>>,
    counts: Mutex<BTreeMap<(String, String), usize>>,
    /// A change ends all watches that are open.
    pub(crate) watches: watch::Sender<u64>,
    pub(crate) version: Version,
}

impl Shared {
    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn denied(&self) -> MutexGuard<'_, BTreeSet<(String, String)>> {
        self.denied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn permissions(&self) -> MutexGuard<'_, Permissions> {
        self.permissions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What holds whoever has this token to one node.
    pub(crate) fn held(&self, token: Option<&str>) -> Option<Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).get(token?).cloned()
    }

    /// Counts a request, and takes the trouble that is meant for it.
    pub(crate) fn enter(&self, verb: &str, resource: &str) -> Option<Trouble> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry((verb.to_owned(), resource.to_owned())).or_default() += 1;
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let fault = faults.iter_mut().find(|fault| fault.is_for(verb, resource))?;
        fault.times -= 1;
        Some(fault.trouble.clone())
    }
}

/// A running server; dropping it ends it.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        self.break_watches();
    }
}

impl Server {
    /// A server with settings.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// `http://127.0.0.1:…`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A kubeconfig for kubectl and everything else.
    pub fn kubeconfig(&self) -> String {
        self.kubeconfig_of("anybody", "{}")
    }

    /// The same for whoever has a token.
    pub fn kubeconfig_with(&self, token: &str) -> String {
        self.kubeconfig_of(token, &format!("{{token: {token}}}"))
    }

    fn kubeconfig_of(&self, name: &str, user: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: stand-in\nclusters:\n- name: stand-in\n  cluster: {{server: \
             \"{}\"}}\ncontexts:\n- name: stand-in\n  context: {{cluster: stand-in, user: {name}}}\nusers:\n- name: \
             {name}\n  user: {user}\n",
            self.url()
        )
    }

    /// From now on whoever has this token may do what these rules say, and nothing else.
    pub fn permit(&self, token: &str, rules: Vec<Rule>) {
        self.shared.permissions().set(token, rules);
    }

    /// From now on whoever has this token may write ResourceSlices of one node and its pool only, as an admission policy
    /// says it.
    pub fn hold(&self, token: &str, node: &str, pool: &str) {
        let held = Held { node: node.to_owned(), pool: pool.to_owned() };
        self.shared.held.lock().unwrap_or_else(PoisonError::into_inner).insert(token.to_owned(), held);
    }

    /// All that was asked for with a token that has rules, allowed or not.
    pub fn asked(&self, token: &str) -> BTreeSet<Asked> {
        self.shared.permissions().asked(token)
    }

    /// How many requests there were, by verb and resource.
    pub fn requests(&self) -> BTreeMap<(String, String), usize> {
        self.shared.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many requests would have changed something.
    pub fn writes(&self) -> usize {
        let is_write = |verb: &str| !["get", "list", "watch", "dry-run", "other"].contains(&verb);
        self.requests().iter().filter(|((verb, _), _)| is_write(verb)).map(|(_, count)| count).sum()
    }

    /// Makes trouble for requests to come.
    pub fn inject(&self, fault: Fault) {
        self.shared.faults.lock().unwrap_or_else(PoisonError::into_inner).push(fault);
    }

    /// From now on tells whoever asks that this isn't allowed: `("create", "pods/eviction")`. Requests pass all the same.
    pub fn deny(&self, verb: &str, resource: &str) {
        self.shared.denied().insert((verb.to_owned(), resource.to_owned()));
    }

    /// Takes back all trouble.
    pub fn heal(&self) {
        self.shared.faults.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// From now on does not store a field, as a server that comes back with its feature off; what is stored stays.
    pub fn drop_field(&self, resource: &str, path: &str) {
        self.shared.store().drop_field(resource, path);
    }

    /// From now on stores a field that it didn't, as a server that comes back with its feature on.
    pub fn store_field(&self, resource: &str, path: &str) {
        self.shared.store().store_field(resource, path);
    }

    /// Ends all watches that are open, as a server that restarts does.
    pub fn break_watches(&self) {
        self.shared.watches.send_modify(|count| *count += 1);
    }

    /// Ends all watches and forgets what they would go on from: they have to list anew.
    pub fn expire_watches(&self) {
        self.shared.store().forget();
        self.break_watches();
    }

    /// Puts objects of a resource there as they are, without requests: what was there long before.
    pub fn seed(&self, resource: &str, objects: impl IntoIterator<Item = Value>) {
        let Some(kind) = crate::kinds::KINDS.iter().find(|kind| kind.resource == resource) else { return };
        let mut store = self.shared.store();
        objects.into_iter().for_each(|object| store.seed(kind, object));
    }

    /// An object as it is stored, without a request.
    pub fn peek(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        let kind = crate::kinds::KINDS.iter().find(|kind| kind.resource == resource)?;
        self.shared.store().get(kind, namespace, name).ok()
    }

    /// All objects of a resource, without a request.
    pub fn peek_all(&self, resource: &str) -> Vec<Value> {
        let Some(kind) = crate::kinds::KINDS.iter().find(|kind| kind.resource == resource) else { return Vec::new() };
        self.shared.store().list(kind, "", &crate::selectors::Selector::default())
    }

    /// All objects of a resource as they were after each of its changes, without a request: what a watch could have seen.
    pub fn history(&self, resource: &str) -> Vec<Vec<Value>> {
        let Some(kind) = crate::kinds::KINDS.iter().find(|kind| kind.resource == resource) else { return Vec::new() };
        self.shared.store().history(kind)
    }
}
