//! What tasks have in common that install the driver with simulated GPUs on a cluster's only node, and uninstall it at the end.
use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{Error, build, interrupted, on_cluster};
use crate::{
    shell::Shell,
    symptoms::{self, Plan},
};

/// The cluster of KUBECONFIG has one node, this machine or a part of it, with the driver's image and without the driver.
#[derive(Debug, Args)]
pub(super) struct Installed {
    /// Where all that is simulated is laid out, on this machine and on the node; must not exist yet.
    dir: PathBuf,
    /// The node's name.
    #[arg(long, default_value = "node1", value_name = "NAME")]
    node: String,
    /// Runs its last argument as a shell's script on the node, as root.
    #[arg(long, value_name = "COMMAND", default_value = "sh -c")]
    on_node: Shell,
    /// The driver's image, which the node has.
    #[arg(long, default_value_t = format!("localhost/aliquot:{}", env!("CARGO_PKG_VERSION")), value_name = "NAME:TAG")]
    image: String,
    /// What the pods run: an image with sh and sleep.
    #[arg(long, env = "ALIQUOT_PODS_IMAGE", default_value = "docker.io/library/busybox:stable", value_name = "IMAGE")]
    pods: String,
    /// The namespace that is made for them, and deleted afterwards.
    #[arg(long, default_value = "symptoms")]
    namespace: String,
    /// Leaves the driver installed, and the simulated GPUs where they are.
    #[arg(long)]
    keep: bool,
    /// How many seconds anything may take to be told, to run or to be gone.
    #[arg(long, default_value_t = 120)]
    timeout: u64,
}

impl Installed {
    /// Provokes what a plan says, and prints what was told of each; the last line is the sum.
    pub(super) fn run(self, plan: impl FnOnce(Plan) -> Plan) -> Result<(), Error> {
        build()?;
        let plan = plan(Plan {
            dir: self.dir,
            node_name: self.node,
            on_node: self.on_node,
            kubelet: None,
            controllers: None,
            gates: None,
            machines: None,
            image: self.image,
            pods: self.pods,
            namespace: self.namespace,
            only: Vec::new(),
            keep: self.keep,
            patience: Duration::from_secs(self.timeout),
        });
        on_cluster(async |client| {
            let report = Box::pin(symptoms::run(client, &plan, interrupted(), |outcome| println!("{outcome}"))).await?;
            println!("{}", report.sum());
            Ok::<_, symptoms::Error>(report.is_good())
        })
    }
}
