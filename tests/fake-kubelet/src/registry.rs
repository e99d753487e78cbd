//! Watches the registration directory and keeps each socket in it registered, as the kubelet's plugin watcher does.
use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsStr,
    fs, io,
    os::unix::{ffi::OsStrExt, fs::FileTypeExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::StreamExt;
use inotify::{EventMask, EventStream, Inotify, WatchDescriptor, WatchMask};
use tokio::{task::JoinHandle, time::sleep};

use crate::{
    plugins::Plugins,
    registration::{Registered, RegistrationError, register},
};

/// The pauses between attempts to register: half a second, doubling up to two minutes and two seconds.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(122);

/// How far a socket has come.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Registration {
    /// Set once registered, even if the plugin could not be told.
    pub registered: Option<Registered>,
    /// What the latest attempt failed with.
    pub failure: Option<String>,
    /// How many attempts there were.
    pub attempts: u32,
}

type Registrations = Arc<Mutex<BTreeMap<PathBuf, Registration>>>;

/// The watch over one directory tree. Dropping it leaves registrations as they are.
#[derive(Debug)]
pub(crate) struct Registry {
    watcher: JoinHandle<()>,
    registrations: Registrations,
}

impl Registry {
    /// Creates the directory if need be, registers what is there, and watches for more.
    pub(crate) fn start(dir: &Path, plugins: Arc<Plugins>) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let events = Inotify::init()?.into_event_stream(vec![0; 16 * 1024])?;
        let registrations = Registrations::default();
        let mut watcher = Watcher {
            root: dir.to_owned(),
            events,
            dirs: HashMap::new(),
            sockets: Sockets { plugins, registrations: registrations.clone(), tasks: BTreeMap::new() },
        };
        let found = watcher.scan(dir)?;
        let watcher = tokio::spawn(async move { watcher.run(found).await });
        Ok(Self { watcher, registrations })
    }

    /// All sockets seen and still there.
    pub(crate) fn registrations(&self) -> BTreeMap<PathBuf, Registration> {
        self.registrations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

struct Watcher {
    root: PathBuf,
    events: EventStream<Vec<u8>>,
    dirs: HashMap<WatchDescriptor, PathBuf>,
    sockets: Sockets,
}

impl Watcher {
    /// Watches a directory and those below it; returns the sockets there, in order.
    fn scan(&mut self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        // A rename away is not a removal to the kubelet, hence no MOVED_FROM.
        let mask = WatchMask::CREATE | WatchMask::MOVED_TO | WatchMask::DELETE | WatchMask::ONLYDIR;
        self.dirs.insert(self.events.watches().add(dir, mask)?, dir.to_owned());
        let mut entries: Vec<_> = fs::read_dir(dir)?.collect::<Result<_, _>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        let mut found = Vec::new();
        for entry in entries {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                found.extend(self.scan(&entry.path()).unwrap_or_default());
            } else if kind.is_socket() && !is_hidden(&entry.file_name()) {
                found.push(entry.path());
            }
        }
        Ok(found)
    }

    async fn run(mut self, found: Vec<PathBuf>) {
        for socket in found {
            self.sockets.appeared(socket).await;
        }
        while let Some(event) = self.events.next().await {
            let Ok(event) = event else { continue };
            if event.mask.contains(EventMask::Q_OVERFLOW) {
                tracing::warn!("too many changes in the registration directory, looking again");
                let root = self.root.clone();
                self.sockets.forget_missing().await;
                for socket in self.scan(&root).unwrap_or_default() {
                    self.sockets.appeared_unless_known(socket).await;
                }
                continue;
            }
            if event.mask.contains(EventMask::IGNORED) {
                self.dirs.remove(&event.wd);
                continue;
            }
            let (Some(dir), Some(name)) = (self.dirs.get(&event.wd), event.name) else {
                continue;
            };
            let path = dir.join(&name);
            if event.mask.contains(EventMask::DELETE) {
                self.sockets.vanished(&path).await;
            } else if !is_hidden(&name) {
                self.created(path).await;
            }
        }
    }

    async fn created(&mut self, path: PathBuf) {
        let Ok(metadata) = fs::symlink_metadata(&path) else {
            return;
        };
        if metadata.is_dir() {
            for socket in self.scan(&path).unwrap_or_default() {
                self.sockets.appeared_unless_known(socket).await;
            }
        } else if metadata.file_type().is_socket() {
            self.sockets.appeared(path).await;
        }
    }
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b".")
}

/// The sockets seen, each with the task that registers it.
struct Sockets {
    plugins: Arc<Plugins>,
    registrations: Registrations,
    tasks: BTreeMap<PathBuf, JoinHandle<()>>,
}

impl Sockets {
    /// A socket made anew under a known path is another instance: the old one goes first.
    async fn appeared(&mut self, socket: PathBuf) {
        self.vanished(&socket).await;
        let (plugins, registrations) = (self.plugins.clone(), self.registrations.clone());
        update(&registrations, &socket, |_| {});
        let task = tokio::spawn(keep_trying(socket.clone(), plugins, registrations));
        self.tasks.insert(socket, task);
    }

    /// A directory's scan and its events may both tell of the same socket.
    async fn appeared_unless_known(&mut self, socket: PathBuf) {
        if !self.tasks.contains_key(&socket) {
            self.appeared(socket).await;
        }
    }

    async fn forget_missing(&mut self) {
        let missing: Vec<_> = self.tasks.keys().filter(|socket| !socket.exists()).cloned().collect();
        for socket in missing {
            self.vanished(&socket).await;
        }
    }

    async fn vanished(&mut self, socket: &Path) {
        let Some(task) = self.tasks.remove(socket) else { return };
        task.abort();
        // Only once the task has ended is it certain whether it got as far as registering.
        let _ = task.await;
        let gone = self.registrations.lock().unwrap_or_else(PoisonError::into_inner).remove(socket);
        if let Some(Registered { driver, endpoint, .. }) = gone.and_then(|gone| gone.registered) {
            tracing::debug!(driver, ?socket, "registration socket is gone");
            self.plugins.remove(&driver, &endpoint);
        }
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        for task in self.tasks.values() {
            task.abort();
        }
    }
}

async fn keep_trying(socket: PathBuf, plugins: Arc<Plugins>, registrations: Registrations) {
    let mut pause = FIRST_PAUSE;
    loop {
        update(&registrations, &socket, |registration| registration.attempts += 1);
        let registered = |registered| {
            update(&registrations, &socket, |registration| registration.registered = Some(registered));
        };
        match register(&socket, &plugins, registered).await {
            Ok(()) => {
                update(&registrations, &socket, |registration| registration.failure = None);
                return;
            }
            Err(error) => {
                tracing::debug!(%error, "registration failed, will retry");
                update(&registrations, &socket, |registration| registration.failure = Some(error.to_string()));
                // From here on the kubelet counts the socket as registered, whatever came of it.
                if matches!(error, RegistrationError::Refused(_) | RegistrationError::Notify { .. }) {
                    return;
                }
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn update(registrations: &Registrations, socket: &Path, change: impl FnOnce(&mut Registration)) {
    let mut registrations = registrations.lock().unwrap_or_else(PoisonError::into_inner);
    change(registrations.entry(socket.to_owned()).or_default());
}
