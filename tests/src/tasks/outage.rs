//! `cargo xtask outage`: the API server or the kubelet of the cluster of KUBECONFIG goes away for a while.
use std::time::Duration;

use clap::Args;

use super::{Error, interrupted, on_cluster};
use crate::{
    outage::{self, Of, Plan},
    shell::Shell,
};

/// Options of `cargo xtask outage`.
///
/// The cluster has one node with GPUs, four of them free, on which the driver runs. Commands are given to sh. For example, where
/// systemd runs both:
///
/// cargo xtask outage --of=kubelet --stop='ssh node1 systemctl stop kubelet' --start='ssh node1 systemctl start kubelet'
/// --status='ssh node1 aliquot-driver status --output=json' --kill-driver='ssh node1 pkill -KILL -x aliquot-driver'
#[derive(Debug, Args)]
pub(super) struct Outage {
    /// What goes away.
    #[arg(long, value_enum)]
    of: Of,
    /// Stops it, and returns when it is gone.
    #[arg(long, value_name = "COMMAND")]
    stop: Shell,
    /// Starts it again.
    #[arg(long, value_name = "COMMAND")]
    start: Shell,
    /// Runs "aliquot-driver status --output=json" on the node, without the API server and the kubelet.
    #[arg(long, value_name = "COMMAND")]
    status: Shell,
    /// Kills the driver on the node; done half way through, if given.
    #[arg(long, value_name = "COMMAND")]
    kill_driver: Option<Shell>,
    /// For how many seconds it is away.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(60..))]
    seconds: u64,
    /// What the pods run: an image with sh and sleep.
    #[arg(long, env = "ALIQUOT_OUTAGE_IMAGE", default_value = "docker.io/library/busybox:stable")]
    image: String,
    /// The namespace that is made for them, and deleted afterwards.
    #[arg(long, default_value = "aliquot-outage")]
    namespace: String,
    /// How many seconds a pod may take to run or to be gone, and a command to end.
    #[arg(long, default_value_t = 300)]
    timeout: u64,
}

impl Outage {
    /// Takes the steps, and prints what each showed; the last line is the sum.
    pub(super) fn run(self) -> Result<(), Error> {
        let plan = Plan {
            of: self.of,
            stop: self.stop,
            start: self.start,
            status: self.status,
            kill: self.kill_driver,
            image: self.image,
            namespace: self.namespace,
            lasts: Duration::from_secs(self.seconds),
            patience: Duration::from_secs(self.timeout),
        };
        on_cluster(async |client| {
            let report = Box::pin(outage::run(client, &plan, interrupted(), |step| println!("{step}"))).await?;
            println!("{}", report.sum());
            Ok::<_, outage::Error>(report.passed())
        })
    }
}
