//! A real containerd with crun and runc, driven as the kubelet drives it, in namespaces of its own.
//!
//! containerd, its shims and its pods live in one process and mount namespace, whose end ends them all, mounts included.
//! So the machine's own containerd, mounts and control groups stay as they are, even when the process that started this
//! one is killed. Pods use the machine's network.
mod config;
mod cri;
mod kinds;
mod network;
mod pod;
mod unlimited;

use std::{
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

pub use kinds::{Cgroups, Runtime};
pub use pod::{ContainerSpec, Output, Pod, PodSpec};
use tonic::Status;

use crate::{
    debian::Toolbox,
    image::{self, Image, REFERENCE},
};

const INIT: &str = include_str!("init.sh");
/// containerd answers within 0.1 s; a loaded machine of two cores takes a few times that.
const START: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);
/// Enough for a pod's processes to be killed and their control groups to be removed.
const END: Duration = Duration::from_secs(5);
/// The longest path of a Unix socket (`sun_path` in unix(7), with its final zero).
const SOCKET_PATH: usize = 108;

/// Why the runtime, or a call to it, failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Namespaces and mounts are root's.
    #[error("containerd needs root")]
    NotRoot,
    /// The namespaces have a `/run` of their own.
    #[error("{} is below /run, which containerd here has one of its own of", .0.display())]
    BelowRun(PathBuf),
    /// containerd's socket would have a longer path than the system allows.
    #[error("{} is too long a path for a socket", .0.display())]
    LongPath(PathBuf),
    /// A file or a program.
    #[error("{what}: {source}")]
    Io {
        /// Which one.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// containerd ended, or never answered.
    #[error("containerd did not start: {0}")]
    Start(String),
    /// ctr could not import the image.
    #[error("the image could not be imported: {0}")]
    Import(String),
    /// A call was answered with an error.
    #[error("{call}: {}", status.message())]
    Call {
        /// The method's name.
        call: &'static str,
        /// containerd's answer.
        status: Box<Status>,
    },
    /// No such container in the pod.
    #[error("the pod has no container {0}")]
    NoContainer(String),
}

fn io_error(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> Error {
    let what = what.to_string();
    |source| Error::Io { what, source }
}

/// A running containerd; ended, with everything it runs, when dropped.
#[derive(Debug)]
pub struct Containerd {
    init: Child,
    client: cri::Client,
    socket: PathBuf,
    log: PathBuf,
    group: String,
    toolbox: Toolbox,
    dir: PathBuf,
}

impl Containerd {
    /// Starts containerd with its files in `dir` and CDI specs from `cdi_dir` alone, and imports [the image](image).
    ///
    /// Neither directory may be below `/run`, and `dir` must be where programs may run (no `noexec`). It stays, for its
    /// log, and is the caller's to remove.
    pub async fn start(toolbox: &Toolbox, dir: &Path, cdi_dir: &Path) -> Result<Self, Error> {
        Self::start_on(Cgroups::default(), toolbox, dir, cdi_dir).await
    }

    /// The same on a version of control groups that is [available](Cgroups::available).
    pub async fn start_on(cgroups: Cgroups, toolbox: &Toolbox, dir: &Path, cdi_dir: &Path) -> Result<Self, Error> {
        Self::start_with(cgroups, toolbox, dir, cdi_dir, None).await
    }

    /// The same as [`start`](Self::start) with the nodes of a directory in containerd's `/dev`, from which runtimes mount
    /// them in user namespaces, where none can be made.
    pub async fn start_over(toolbox: &Toolbox, dir: &Path, cdi_dir: &Path, nodes: &Path) -> Result<Self, Error> {
        Self::start_with(Cgroups::default(), toolbox, dir, cdi_dir, Some(nodes)).await
    }

    async fn start_with(
        cgroups: Cgroups,
        toolbox: &Toolbox,
        dir: &Path,
        cdi_dir: &Path,
        nodes: Option<&Path>,
    ) -> Result<Self, Error> {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::NotRoot);
        }
        let (dir, cdi_dir) = (directory(dir)?, directory(cdi_dir)?);
        let socket = dir.join("containerd.sock");
        // containerd serves a second protocol at this path with ".ttrpc" behind it.
        if socket.as_os_str().as_bytes().len() + ".ttrpc".len() >= SOCKET_PATH {
            return Err(Error::LongPath(socket));
        }
        let (config, log) = (dir.join("config.toml"), dir.join("containerd.log"));
        let mut runtimes = Vec::new();
        for runtime in Runtime::ALL {
            runtimes.push((runtime, unlimited::install(&dir, runtime.name()).map_err(io_error(runtime.name()))?));
        }
        network::install(&dir.join("cni")).map_err(io_error("cni"))?;
        let text = config::text(&runtimes, &dir, &cdi_dir, &socket);
        fs::write(&config, text).map_err(io_error(config.display()))?;
        let group = format!("aliquot-{}", uuid::Uuid::new_v4().simple());
        let init = spawn_init(toolbox, [&config, &log], &group, cgroups, nodes)?;
        let client = cri::Client::new(&socket);
        let mut containerd = Self { init, client, socket, log, group, toolbox: toolbox.clone(), dir };
        containerd.answers().await?;
        containerd.import(&[Image::new(REFERENCE)]).await?;
        Ok(containerd)
    }

    /// Where containerd serves the runtime interface.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The control group that all pods are in, from the root of the version 2 hierarchy.
    pub fn control_group(&self) -> &str {
        &self.group
    }

    /// The name and version that the runtime gives itself.
    pub async fn version(&self) -> Result<String, Error> {
        let version = self.client.version().await?;
        Ok(format!("{} {}", version.runtime_name, version.runtime_version))
    }

    /// Runs a pod of these containers, each with its CDI devices; all or nothing.
    pub async fn run_pod(&self, name: &str, containers: &[ContainerSpec]) -> Result<Pod, Error> {
        let containers = containers.to_vec();
        self.run(&PodSpec { name: name.to_owned(), containers, ..PodSpec::default() }).await
    }

    /// Runs a pod; all of it or nothing.
    pub async fn run(&self, pod: &PodSpec) -> Result<Pod, Error> {
        Pod::run(self.client.clone(), &self.group, pod).await
    }

    async fn answers(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + START;
        loop {
            let Err(error) = self.client.version().await else {
                return Ok(());
            };
            let ended = self.init.try_wait().map_err(io_error("containerd"))?;
            if let Some(status) = ended {
                return Err(Error::Start(format!("{status}; {}", self.last_words())));
            }
            if Instant::now() > deadline {
                return Err(Error::Start(format!("{error}; {}", self.last_words())));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The end of the log. Whoever has no containerd wants to know what it said.
    fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(5).collect();
        last.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Makes images known, by their references.
    pub async fn import(&self, images: &[Image]) -> Result<(), Error> {
        let file = self.dir.join("images.tar");
        image::write(images, &self.toolbox, &file).map_err(io_error(file.display()))?;
        let mut ctr = tokio::process::Command::new(self.toolbox.program("ctr"));
        ctr.arg("--address").arg(&self.socket).args(["--namespace", "k8s.io"]);
        // A pod's container is unpacked when it is created, by the snapshotter that is configured for pods.
        ctr.args(["images", "import", "--no-unpack"]).arg(&file);
        let output = ctr.output().await.map_err(io_error("ctr"))?;
        if !output.status.success() {
            return Err(Error::Import(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        // The runtime interface learns of images by an event, a moment after the import.
        let deadline = Instant::now() + START;
        for image in images {
            while !self.client.has_image(image.reference()).await? {
                if Instant::now() > deadline {
                    return Err(Error::Import(format!("containerd does not list {}", image.reference())));
                }
                tokio::time::sleep(POLL).await;
            }
        }
        fs::remove_file(&file).map_err(io_error(file.display()))
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        drop(self.init.stdin.take());
        let deadline = Instant::now() + END;
        while Instant::now() < deadline {
            if !matches!(self.init.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(POLL);
        }
        // unshare takes the namespaces' first process, and so all others, with it.
        let _ = self.init.kill();
        let _ = self.init.wait();
    }
}

/// The directory, made if need be, by a path that holds in containerd's namespaces too.
fn directory(dir: &Path) -> Result<PathBuf, Error> {
    fs::create_dir_all(dir).map_err(io_error(dir.display()))?;
    let real = dir.canonicalize().map_err(io_error(dir.display()))?;
    if real.starts_with("/run") {
        return Err(Error::BelowRun(real));
    }
    Ok(real)
}

/// Starts the first process of new namespaces. It holds on to a pipe of ours, and ends with us.
fn spawn_init(
    toolbox: &Toolbox,
    [config, log]: [&Path; 2],
    group: &str,
    cgroups: Cgroups,
    nodes: Option<&Path>,
) -> Result<Child, Error> {
    let errors = fs::File::create(log).map_err(io_error(log.display()))?;
    let mut search = toolbox.bin().into_os_string();
    search.push(":/usr/sbin:/usr/bin:/sbin:/bin");
    Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--mount-proc", "--kill-child=KILL"])
        .args(["sh", "-c", INIT, "init"])
        .arg(toolbox.program("containerd"))
        .args([config, log])
        .args([group, cgroups.version()])
        .arg(nodes.unwrap_or(Path::new("")))
        .env("PATH", search)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(errors)
        .spawn()
        .map_err(io_error("unshare"))
}
