//! The registered driver instances: which one is used, and when the slices of a lost driver are wiped.
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use k8s_openapi::api::resource::v1::ResourceSlice;
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams},
};
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::sleep,
};

use crate::{
    driver::{Driver, Version},
    health::{HealthCache, follow},
    link::Link,
};

/// The pauses between attempts to wipe slices: one second, doubling up to five minutes.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// Why a driver cannot be registered or used; the texts are the kubelet's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PluginError {
    /// No instance of this driver is registered.
    #[error("DRA driver {0} is not registered")]
    NotRegistered(String),
    /// Another instance has this endpoint.
    #[error("endpoint {} already registered for DRA driver plugin {driver}", endpoint.display())]
    Taken {
        /// The driver's name.
        driver: String,
        /// The endpoint that both want.
        endpoint: PathBuf,
    },
}

/// How this kubelet treats plugins.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) node: String,
    pub(crate) wipe_delay: Duration,
    pub(crate) call_timeout: Duration,
}

struct Instance {
    driver: Driver,
    connected: bool,
    health: AbortHandle,
    _link: Link,
}

#[derive(Default)]
struct State {
    /// By driver, in order of registration.
    instances: BTreeMap<String, Vec<Instance>>,
    /// Pending or done wipes of drivers that are not connected: one per outage.
    wipes: BTreeMap<String, AbortHandle>,
    tasks: JoinSet<()>,
}

/// All registered instances. Dropping it closes their connections and cancels pending wipes.
pub(crate) struct Plugins {
    rules: Rules,
    client: Client,
    health: HealthCache,
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

impl Plugins {
    /// Starts with none, and wipes all slices of the node: no driver has come back yet.
    pub(crate) fn start(rules: Rules, client: Client) -> Arc<Self> {
        let (health, state, changed) = (HealthCache::default(), Mutex::default(), watch::Sender::new(()));
        let plugins = Arc::new(Self { rules, client, health, state, changed });
        let wipe = wipe(plugins.client.clone(), format!("spec.nodeName={}", plugins.rules.node));
        plugins.lock().tasks.spawn(wipe);
        plugins
    }

    /// Adds an instance and connects to it in the background.
    pub(crate) fn add(self: &Arc<Self>, name: &str, endpoint: &Path, version: Version) -> Result<(), PluginError> {
        let mut state = self.lock();
        let others = state.instances.get(name).map_or(&[][..], Vec::as_slice);
        if others.iter().any(|other| other.driver.endpoint == endpoint) {
            return Err(PluginError::Taken { driver: name.to_owned(), endpoint: endpoint.to_owned() });
        }
        let link = Link::open(endpoint.to_owned(), {
            let (plugins, name, endpoint) = (Arc::downgrade(self), name.to_owned(), endpoint.to_owned());
            move |connected| Self::connection_changed(&plugins, &name, &endpoint, connected)
        });
        let driver = Driver {
            name: name.to_owned(),
            endpoint: endpoint.to_owned(),
            version,
            route: link.route(),
            call_timeout: self.rules.call_timeout,
        };
        let health = state.tasks.spawn(follow(driver.clone(), self.health.clone()));
        let instance = Instance { driver, connected: false, health, _link: link };
        state.instances.entry(name.to_owned()).or_default().push(instance);
        self.sync(&mut state, name);
        Ok(())
    }

    /// Forgets an instance; a no-op if it is not there.
    pub(crate) fn remove(&self, name: &str, endpoint: &Path) {
        let mut state = self.lock();
        let Some(instances) = state.instances.get_mut(name) else {
            return;
        };
        for gone in instances.extract_if(.., |instance| instance.driver.endpoint == endpoint) {
            gone.health.abort();
            self.health.clear(name);
        }
        if instances.is_empty() {
            state.instances.remove(name);
        }
        self.sync(&mut state, name);
    }

    /// The instance to call: the most recently registered connected one, else the most recent.
    pub(crate) fn get(&self, name: &str) -> Result<Driver, PluginError> {
        let state = self.lock();
        let instances = state.instances.get(name).map_or(&[][..], Vec::as_slice);
        let chosen = instances.iter().rev().find(|instance| instance.connected).or(instances.last());
        chosen.map(|instance| instance.driver.clone()).ok_or_else(|| PluginError::NotRegistered(name.to_owned()))
    }

    /// Whether some instance is registered and connected.
    pub(crate) fn usable(&self, name: &str) -> bool {
        usable(&self.lock(), name)
    }

    pub(crate) fn health(&self) -> &HealthCache {
        &self.health
    }

    /// Tells of every change of what is registered or connected.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn connection_changed(plugins: &Weak<Self>, name: &str, endpoint: &Path, connected: bool) {
        let Some(plugins) = plugins.upgrade() else { return };
        let mut state = plugins.lock();
        let mut instances = state.instances.get_mut(name).into_iter().flatten();
        if let Some(instance) = instances.find(|instance| instance.driver.endpoint == endpoint) {
            tracing::debug!(driver = name, ?endpoint, connected, "connection changed");
            instance.connected = connected;
            plugins.sync(&mut state, name);
        }
    }

    /// Starts or cancels the wipe of a driver's slices; to be called after every change of its instances.
    fn sync(&self, state: &mut State, name: &str) {
        while state.tasks.try_join_next().is_some() {}
        if usable(state, name) {
            if let Some(wipe) = state.wipes.remove(name) {
                wipe.abort();
            }
        } else if !state.wipes.contains_key(name) {
            let selector = format!("spec.driver={name},spec.nodeName={}", self.rules.node);
            let (client, delay) = (self.client.clone(), self.rules.wipe_delay);
            let task = state.tasks.spawn(async move {
                sleep(delay).await;
                wipe(client, selector).await;
            });
            state.wipes.insert(name.to_owned(), task);
        }
        self.changed.send_replace(());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn usable(state: &State, name: &str) -> bool {
    state.instances.get(name).is_some_and(|instances| instances.iter().any(|instance| instance.connected))
}

/// Deletes the slices that match, trying until it succeeds.
async fn wipe(client: Client, selector: String) {
    let slices: Api<ResourceSlice> = Api::all(client);
    let matching = ListParams::default().fields(&selector);
    let mut pause = FIRST_PAUSE;
    loop {
        match slices.delete_collection(&DeleteParams::default(), &matching).await {
            Ok(_) => break,
            Err(kube::Error::Api(status)) if status.is_not_found() => break,
            Err(error) => tracing::debug!(selector, %error, "wiping ResourceSlices failed, will retry"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    tracing::debug!(selector, "wiped ResourceSlices");
}
