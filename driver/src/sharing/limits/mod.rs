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
mod ledger;
mod nvml;
mod serve;
pub(crate) mod socket;
#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use aliquot_model::{GpuUuid, Memory};
pub(crate) use nvml::Library;
use tokio_util::sync::CancellationToken;

use self::{answer::Desk, socket::Socket};
use crate::{claim::Record, hook, roots::Roots, sharing::guard::cgroup::Kubepods};

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
    /// Nobody would ask for them.
    #[error("there is no hook to ask for them")]
    NoHook,
    /// An older host.
    #[error("{} is no cgroup v2 hierarchy", path.display())]
    Cgroups {
        /// Where it would be.
        path: PathBuf,
    },
    /// Containers are not seen.
    #[error("the driver is not in the host's PID and cgroup namespaces, as a privileged pod with hostPID is")]
    Namespaces,
    /// The plugin's directory.
    #[error(transparent)]
    Dir(#[from] hook::Lacking),
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
    kubepods: Kubepods,
}

impl Limits {
    /// Binds the socket; without it, or without a hook, GPUs are offered without hard limits.
    pub(crate) fn begin(roots: &Roots, has_hook: bool, kubepods: Kubepods) -> Self {
        // Claims that were promised a limit by an earlier driver need the socket whatever is offered now.
        let socket =
            hook::directory(roots).map_err(Lacking::from).and_then(|_| Ok(Socket::bind(&roots.plugin, SOCKET)?));
        let possible = possible(roots, has_hook);
        if let Some(lacking) = socket.as_ref().err().or(possible.as_ref().err()) {
            tracing::info!(reason = %crate::report(lacking), "GPUs are offered without hard memory limits");
        }
        Self { roots: roots.clone(), ready: socket.is_ok() && possible.is_ok(), socket: socket.ok(), kubepods }
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
        let desk = Desk::new(cgroup::Cgroups::new(&self.roots, self.kubepods), records, limiter);
        let _ = stop.run_until_cancelled(serve::serve(socket, desk)).await;
    }
}

/// Whether a driver that is started here could have memory limited.
pub(crate) fn could_be_had(roots: &Roots) -> bool {
    possible(roots, hook::could_be_had()).is_ok()
}

/// What of a node limits need.
fn possible(roots: &Roots, has_hook: bool) -> Result<(), Lacking> {
    if !has_hook {
        return Err(Lacking::NoHook);
    }
    if !cgroup::is_unified(roots) {
        return Err(Lacking::Cgroups { path: cgroup::hierarchy(roots) });
    }
    if !cgroup::is_in_view(roots) {
        return Err(Lacking::Namespaces);
    }
    Ok(())
}
