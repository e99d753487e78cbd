//! Hard limits: containers with shares get no more of a GPU's memory than these have, by NVIDIA's driver itself.
//!
//! ```text
//! container made ─> aliquot-hook (createRuntime) ──socket──> answer: claim's record ─> limit     (grant)
//!                                                              │     pid ─> cgroup               (cgroup)
//!                            NVML: cgroup, limit <── Limiter ──┘     + the container's others    (ledger)
//! ```
//! A cgroup is there only once the container is made, so the limit is asked for then; a container whose limit can't be
//! set doesn't start. The limit goes with its cgroup. What it is follows from the claim's record alone.
mod answer;
mod cgroup;
mod grant;
mod install;
mod ledger;
mod nvml;
mod serve;
mod socket;
#[cfg(test)]
mod tests;

use std::{
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use aliquot_model::{GpuUuid, Memory};
pub(crate) use nvml::Library;
use owned_dir::Dir;
use tokio_util::sync::CancellationToken;

use self::{answer::Desk, socket::Socket};
use crate::{claim::Record, roots::Roots};

/// The hook's name, beside the driver and in the plugin's directory.
pub(crate) const HOOK: &str = "aliquot-hook";
/// The socket's name in the plugin's directory. It stands in CDI specs, so it is the same for every driver instance.
pub(crate) const SOCKET: &str = "limits.sock";

/// Who sets limits.
pub(crate) trait Limiter {
    /// What a cgroup is held to now.
    fn limit(&self, gpu: &GpuUuid, cgroup: &Path) -> impl Future<Output = Result<Option<Memory>, String>>;
    /// Holds a cgroup to a limit.
    fn set(&self, gpu: &GpuUuid, cgroup: &Path, limit: Memory) -> impl Future<Output = Result<(), String>>;
}

/// Why no limits can be had on this node.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Lacking {
    /// Wanted so.
    #[error("--hook is empty")]
    Off,
    /// An older host.
    #[error("{} is no cgroup v2 hierarchy", path.display())]
    Cgroups {
        /// Where it would be.
        path: PathBuf,
    },
    /// Containers are not seen.
    #[error("the driver is not in the host's PID and cgroup namespaces, as a privileged pod with hostPID is")]
    Namespaces,
    /// The hook.
    #[error(transparent)]
    Hook(#[from] install::Error),
    /// The plugin's directory.
    #[error("the hook's directory can't be used")]
    Dir(#[from] owned_dir::Error),
    /// The kubelet's root isn't there.
    #[error("the directory {} can't be made", path.display())]
    Missing {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The socket.
    #[error(transparent)]
    Socket(#[from] socket::Error),
}

/// What containers' starts need of this driver: the hook in its place, and the socket that it asks at.
#[derive(Debug)]
pub(crate) struct Limits {
    roots: Roots,
    socket: Option<Socket>,
    ready: bool,
}

impl Limits {
    /// Installs the hook and binds the socket; without either, GPUs are offered without hard limits.
    pub(crate) fn begin(roots: &Roots, hook: Option<&Path>) -> Self {
        // Claims that were promised a limit by an earlier driver need the socket whatever is offered now.
        let socket = directory(roots).and_then(|_| Ok(Socket::bind(&roots.plugin)?));
        let installed = could_serve(roots, hook).and_then(|hook| Ok(install::install(&hook, &directory(roots)?)?));
        if let Some(lacking) = socket.as_ref().err().or(installed.as_ref().err()) {
            tracing::info!(reason = %crate::report(lacking), "GPUs are offered without hard memory limits");
        }
        Self { roots: roots.clone(), ready: socket.is_ok() && installed.is_ok(), socket: socket.ok() }
    }

    /// Whether a GPU that can limit memory may be offered as one that does.
    pub(crate) fn are_ready(&self) -> bool {
        self.ready
    }

    /// Answers hooks until `stop`.
    pub(crate) async fn serve(
        self,
        records: impl Fn(&str) -> Result<Option<Arc<Record>>, String>,
        limiter: impl Limiter,
        stop: CancellationToken,
    ) {
        let Some(socket) = self.socket else { return };
        let desk = Desk::new(cgroup::Cgroups::new(&self.roots), records, limiter);
        let _ = stop.run_until_cancelled(serve::serve(socket, desk)).await;
    }
}

/// Whether a driver that is started here could have memory limited.
pub(crate) fn could_be_had(roots: &Roots) -> bool {
    could_serve(roots, None).is_ok_and(|hook| hook.is_file())
}

/// The hook that would be installed; an empty path is none.
fn could_serve(roots: &Roots, hook: Option<&Path>) -> Result<PathBuf, Lacking> {
    let hook = match hook {
        Some(hook) if hook.as_os_str().is_empty() => return Err(Lacking::Off),
        Some(hook) => hook.to_owned(),
        None => install::beside_this_program()?,
    };
    if !cgroup::is_unified(roots) {
        return Err(Lacking::Cgroups { path: cgroup::hierarchy(roots) });
    }
    if !cgroup::is_in_view(roots) {
        return Err(Lacking::Namespaces);
    }
    Ok(hook)
}

/// The plugin's directory: only ours to write.
fn directory(roots: &Roots) -> Result<Dir, Lacking> {
    let missing = |source| Lacking::Missing { path: roots.plugin.clone(), source };
    if !roots.kubelet.is_dir() {
        return Err(missing(std::io::ErrorKind::NotFound.into()));
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o750).create(&roots.plugin).map_err(missing)?;
    Ok(Dir::open(&roots.plugin)?)
}
