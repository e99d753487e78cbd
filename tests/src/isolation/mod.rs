//! Tries to reach, from within real containers, every device that they weren't given.
//!
//! ```text
//! driver ──CDI specs──> containerd ──crun, runc──> containers with a probe ──what the kernel answered──> tally
//! ```
//! No machine here has the GPUs that the driver publishes, and that is no loss: whether a container may open a device is
//! decided by the device cgroup before any driver is asked. Opening a number that it allows and for which the kernel has no
//! driver is answered with `ENXIO`, and one that it doesn't allow with `EPERM`. So a node that a container was given must
//! answer with anything but `EPERM`, and a forged one with nothing else. That the two can be told apart on this machine is
//! seen first, in a privileged container, which may open everything.
mod churn;
mod claims;
mod host;
mod images;
mod kinds;
mod lifetime;
mod refusal;
mod seen;
mod stage;
mod tally;

use std::time::Duration;

pub(crate) use seen::is_usual;
use stage::Stage;
pub use tally::Tally;

use crate::{
    debian::Toolbox,
    runtime::{Cgroups, Runtime},
    testbed::Result,
};

/// How much is tried.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Pods that come and go.
    pub pods: usize,
    /// For how long they do so at least.
    pub time: Duration,
    /// By which containers are made.
    pub runtimes: Vec<Runtime>,
    /// In which they are held.
    pub cgroups: Vec<Cgroups>,
    /// Whether hostile images are tried with each runtime on one version of cgroups only, as they aim at neither.
    pub images_once: bool,
}

impl Plan {
    /// All that this machine has.
    pub fn everything() -> Self {
        let (runtimes, cgroups) = (Runtime::ALL.to_vec(), Cgroups::available());
        Self { pods: 20, time: Duration::ZERO, runtimes, cgroups, images_once: false }
    }
}

/// Tries all of it.
pub async fn run(toolbox: &Toolbox, plan: &Plan) -> Result<Tally> {
    let mut tally = Tally::default();
    let count = plan.cgroups.len() * plan.runtimes.len();
    let mut stage = Stage::set().await?;
    for cgroups in &plan.cgroups {
        let scene = stage.raise(toolbox, *cgroups).await?;
        for runtime in &plan.runtimes {
            let name = format!("{} on cgroup v{}", runtime.name(), cgroups.version());
            tally.section(&name);
            claims::run(&scene, *runtime, &mut tally).await?;
            lifetime::run(&scene, *runtime, &mut tally).await?;
            if !plan.images_once || *cgroups == Cgroups::default() {
                images::run(&scene, *runtime, &mut tally).await?;
            }
            let pods = plan.pods.div_ceil(count.max(1));
            churn::run(&scene, *runtime, pods, plan.time / u32::try_from(count.max(1))?, &mut tally).await?;
        }
    }
    Ok(tally)
}
