//! `cargo xtask outage`: the API server or the kubelet of the cluster of KUBECONFIG goes away for a while.
use std::time::Duration;

use clap::Args;
use kube::Client;

use super::Error;
use crate::outage::{self, Of, Plan, Shell};

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
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|source| Error::Io { what: "start a runtime".to_owned(), source })?.block_on(self.steps())
    }

    async fn steps(self) -> Result<(), Error> {
        let client = Client::try_default().await.map_err(|error| Error::Broke(error.into()))?;
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
        let report = Box::pin(outage::run(client, &plan, super::interrupted(), |step| println!("{step}"))).await;
        let report = report.map_err(|error| Error::Broke(error.into()))?;
        println!("{}", report.sum());
        if report.passed() { Ok(()) } else { Err(Error::Broke("not all came out as it must, as told above".into())) }
    }
}
