//! The kubelet: starts and restarts its parts, runs and stops pods, and cleans up after pods that vanished.
use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use kube::Client;
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{
    checkpoint,
    claim_errors::{PrepareError, UnprepareError},
    claims::Claims,
    device_plugins::DevicePlugins,
    driver::Driver,
    health::Health,
    plugins::{PluginError, Plugins, Rules},
    pod::{PodSpec, RunningPod},
    pod_resources::{Desk, ListTrouble, Serving},
    registry::{Registration, Registry},
};

/// Why the kubelet does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The registration directory cannot be made or watched.
    #[error("watch {}: {source}", dir.display())]
    Watch {
        /// The registration directory.
        dir: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The checkpoint is there, but cannot be read.
    #[error("read {}: {source}", file.display())]
    Checkpoint {
        /// The checkpoint.
        file: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The pod-resources socket cannot be made.
    #[error("serve pod resources below {}: {source}", root.display())]
    PodResources {
        /// The kubelet's root.
        root: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// A directory cannot be emptied.
    #[error("empty {}: {source}", dir.display())]
    Empty {
        /// The directory.
        dir: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

/// A driver did not register, or did not connect, in time.
#[derive(Debug, thiserror::Error)]
#[error("no instance of DRA driver {driver} is registered and connected after {waited:?}; sockets: {registrations:#?}")]
pub struct NotRegistered {
    /// The driver waited for.
    pub driver: String,
    /// For how long.
    pub waited: Duration,
    /// How far each socket has come.
    pub registrations: BTreeMap<PathBuf, Registration>,
}

/// Settings of a [`Kubelet`]; the defaults are the real one's.
#[derive(Clone)]
pub struct Builder {
    root: PathBuf,
    client: Client,
    rules: Rules,
    reconcile_period: Duration,
    patience: Duration,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("root", &self.root).field("rules", &self.rules).finish_non_exhaustive()
    }
}

impl Builder {
    /// How long a driver may be gone before its slices are wiped; 30 s unless set.
    pub fn wipe_delay(mut self, delay: Duration) -> Self {
        self.rules.wipe_delay = delay;
        self
    }

    /// The deadline of prepare and unprepare calls; 45 s unless set.
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.rules.call_timeout = timeout;
        self
    }

    /// How often vanished pods are looked for; 60 s unless set.
    pub fn reconcile_period(mut self, period: Duration) -> Self {
        self.reconcile_period = period;
        self
    }

    /// How long [`Kubelet::wait_registered`] waits; 15 s unless set.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Wipes the node's slices and starts to watch for drivers. Must be called within a tokio runtime.
    pub fn start(self) -> Result<Kubelet, StartError> {
        let pods = Pods::default();
        let desk = Arc::new(Desk::new(&self.root));
        let running = RwLock::new(Arc::new(Running::start(&self, &pods, &desk)?));
        Ok(Kubelet { settings: self, running, pods, desk })
    }
}

/// The pods that exist, by UID; those of remembered claims that do not are unprepared.
pub(crate) type Pods = Arc<Mutex<BTreeMap<String, PodSpec>>>;

/// A kubelet of one node. Dropping it is like stopping the process: connections close, nothing is unprepared.
pub struct Kubelet {
    settings: Builder,
    running: RwLock<Arc<Running>>,
    pods: Pods,
    desk: Arc<Desk>,
}

impl fmt::Debug for Kubelet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kubelet").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// What does not survive a restart.
struct Running {
    registry: Registry,
    plugins: Arc<Plugins>,
    claims: Arc<Claims>,
    reconciler: JoinHandle<()>,
    _listing: Serving,
}

impl Running {
    fn start(settings: &Builder, pods: &Pods, desk: &Arc<Desk>) -> Result<Self, StartError> {
        let dir = settings.root.join("plugins_registry");
        let file = settings.root.join(checkpoint::FILE);
        let plugins = Plugins::start(settings.rules.clone(), settings.client.clone());
        let claims = Claims::load(file.clone(), settings.client.clone(), plugins.clone());
        let claims = Arc::new(claims.map_err(|source| StartError::Checkpoint { file, source })?);
        let registry = Registry::start(&dir, plugins.clone()).map_err(|source| StartError::Watch { dir, source })?;
        let socket = |source| StartError::PodResources { root: settings.root.clone(), source };
        let listing = Serving::start(&settings.root, claims.clone(), pods.clone(), desk.clone()).map_err(socket)?;
        let (period, pods, looked_after) = (settings.reconcile_period, pods.clone(), claims.clone());
        let reconciler = tokio::spawn(async move {
            loop {
                sleep(period).await;
                reconcile(&looked_after, &pods).await;
            }
        });
        Ok(Self { registry, plugins, claims, reconciler, _listing: listing })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.reconciler.abort();
    }
}

impl Kubelet {
    /// A kubelet whose files are below `root` and whose node is called `node`.
    pub fn builder(root: impl Into<PathBuf>, node: impl Into<String>, client: Client) -> Builder {
        let (wipe_delay, call_timeout) = (Duration::from_secs(30), Duration::from_secs(45));
        Builder {
            root: root.into(),
            client,
            rules: Rules { node: node.into(), wipe_delay, call_timeout },
            reconcile_period: Duration::from_mins(1),
            patience: Duration::from_secs(15),
        }
    }

    /// The kubelet's root directory.
    pub fn root(&self) -> &Path {
        &self.settings.root
    }

    /// Waits until an instance of a driver is registered and connected.
    pub async fn wait_registered(&self, driver: &str) -> Result<(), NotRegistered> {
        let running = self.running();
        let mut changes = running.plugins.changes();
        let registered = async {
            while !running.plugins.usable(driver) {
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let waited = self.settings.patience;
        timeout(waited, registered).await.map_err(|_| NotRegistered {
            driver: driver.to_owned(),
            waited,
            registrations: running.registry.registrations(),
        })
    }

    /// How far each socket in the registration directory has come.
    pub fn registrations(&self) -> BTreeMap<PathBuf, Registration> {
        self.running().registry.registrations()
    }

    /// The instance of a driver that the kubelet would call now, for direct calls.
    pub fn client(&self, driver: &str) -> Result<Driver, PluginError> {
        self.running().plugins.get(driver)
    }

    /// Starts a pod: prepares its claims and says what each container gets. Calling it again for a pod that runs is what
    /// the kubelet does for a new sandbox: claims that it knows as prepared are not prepared again.
    pub async fn run_pod(&self, pod: PodSpec) -> Result<RunningPod, PrepareError> {
        self.pods().insert(pod.uid.clone(), pod.clone());
        self.running().claims.prepare(&pod).await
    }

    /// Stops a pod: its claims are unprepared unless others use them. After an error they are tried again by
    /// [`Kubelet::reconcile`], which runs by itself too.
    pub async fn stop_pod(&self, uid: &str) -> Result<(), UnprepareError> {
        self.pods().remove(uid);
        self.running().claims.unprepare(uid).await
    }

    /// The pod's object vanishes from the API server without the kubelet being asked; it unprepares when it next looks.
    pub fn force_delete(&self, uid: &str) {
        self.pods().remove(uid);
    }

    /// Unprepares the claims of pods that are gone. Returns the errors, by pod UID.
    pub async fn reconcile(&self) -> BTreeMap<String, UnprepareError> {
        reconcile(&self.running().claims, &self.pods).await
    }

    /// Restarts the kubelet alone: what was prepared and who is registered is forgotten, slices are wiped, and sockets
    /// are looked for. Running pods are not prepared again.
    pub fn restart(&self) -> Result<(), StartError> {
        let next = Arc::new(Running::start(&self.settings, &self.pods, &self.desk)?);
        *self.running.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }

    /// Reboots the node, once the caller has stopped the drivers: `volatile` directories are emptied, and the kubelet
    /// starts anew. Returns the pods that still exist: each gets a new sandbox, so is to be run again.
    pub fn reboot(&self, volatile: &[PathBuf]) -> Result<Vec<PodSpec>, StartError> {
        for dir in volatile {
            empty(dir).map_err(|source| StartError::Empty { dir: dir.clone(), source })?;
        }
        self.restart()?;
        Ok(self.pods().values().cloned().collect())
    }

    /// Restarts the kubelet with its checkpoint lost: claims of before are neither known nor unprepared.
    pub fn lose_state(&self) -> Result<(), StartError> {
        let file = self.settings.root.join(checkpoint::FILE);
        match std::fs::remove_file(&file) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(StartError::Checkpoint { file, source }),
        }
        self.restart()
    }

    /// What callers of the pod-resources socket run into from now on.
    pub fn trouble_list(&self, trouble: ListTrouble) {
        *self.desk.trouble() = trouble;
    }

    /// How often the pod-resources socket was asked for the list.
    pub fn lists(&self) -> usize {
        self.desk.lists()
    }

    /// How often the pod-resources socket was asked for anything.
    pub fn asked(&self) -> usize {
        self.desk.calls()
    }

    /// The node's device plugins.
    pub fn device_plugins(&self) -> &DevicePlugins {
        &self.desk.plugins
    }

    /// What is known of a device's health.
    pub fn health(&self, driver: &str, pool: &str, device: &str) -> Health {
        self.running().plugins.health().of(driver, pool, device)
    }

    fn running(&self) -> Arc<Running> {
        self.running.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn pods(&self) -> MutexGuard<'_, BTreeMap<String, PodSpec>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn reconcile(claims: &Claims, pods: &Pods) -> BTreeMap<String, UnprepareError> {
    let mut gone = claims.pods();
    gone.retain(|uid| !pods.lock().unwrap_or_else(PoisonError::into_inner).contains_key(uid));
    let mut errors = BTreeMap::new();
    for uid in gone {
        if let Err(error) = claims.unprepare(&uid).await {
            tracing::info!(pod = uid, %error, "unpreparing in the reconcile loop failed, will retry");
            errors.insert(uid, error);
        }
    }
    errors
}

fn empty(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
