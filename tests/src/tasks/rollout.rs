//! `cargo xtask rollout`: rolling updates of the driver on the cluster of KUBECONFIG, under pods that come and go.
use std::time::Duration;

use clap::Args;

use super::{Error, interrupted, on_cluster};
use crate::rollout::{self, DaemonSetName, Plan};

/// Options of `cargo xtask rollout`.
///
/// The driver runs as a DaemonSet, and a node has two GPUs of its kind free for each worker, and one more for the pods that stay.
#[derive(Debug, Args)]
pub(super) struct Rollout {
    /// The driver's DaemonSet.
    #[arg(long, default_value = "aliquot/aliquot-driver", value_name = "NAMESPACE/NAME")]
    daemon_set: DaemonSetName,
    /// Another version's image, which the nodes can have: the driver is changed to it, and back. Without it, it is restarted.
    #[arg(long, value_name = "IMAGE")]
    other: Option<String>,
    /// What the pods run: an image with sh and sleep.
    #[arg(long, env = "ALIQUOT_ROLLOUT_IMAGE", default_value = "docker.io/library/busybox:stable")]
    image: String,
    /// The namespace that is made for them, and deleted afterwards.
    #[arg(long, default_value = "aliquot-rollout")]
    namespace: String,
    /// How many pods with whole GPUs come and go at a time, and how many with shares.
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// For how many seconds they do before the first change, and after each.
    #[arg(long, default_value_t = 10)]
    settle: u64,
    /// How many seconds a pod may take to run or to be gone, and a change to be on all nodes.
    #[arg(long, default_value_t = 300)]
    timeout: u64,
}

impl Rollout {
    /// Makes the changes; the last line is the sum.
    pub(super) fn run(self) -> Result<(), Error> {
        let plan = Plan {
            daemon_set: self.daemon_set,
            other: self.other,
            image: self.image,
            namespace: self.namespace,
            workers: self.workers,
            settle: Duration::from_secs(self.settle),
            patience: Duration::from_secs(self.timeout),
        };
        on_cluster(async |client| {
            let report = Box::pin(rollout::run(client, &plan, interrupted(), |change| println!("{change}…"))).await?;
            print!("{report}");
            Ok::<_, rollout::Error>(report.is_good())
        })
    }
}
