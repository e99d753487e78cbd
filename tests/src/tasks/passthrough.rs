//! `cargo xtask passthrough`: GPUs for virtual machines on the cluster of KUBECONFIG, with a stand-in for Kata Containers.
use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{Error, build, interrupted, on_cluster};
use crate::{
    shell::Shell,
    symptoms::{self, Plan},
};

/// Options of `cargo xtask passthrough`.
///
/// The cluster has one node, this machine or a part of it, with the driver's image and without the driver: it is installed with
/// simulated GPUs, and uninstalled at the end. containerd on it has a runtime whose program is DIR/vm/vm-runtime, which is put
/// there, of type io.containerd.runc.v2, and to which the pod annotations cdi.k8s.io/* are handed.
#[derive(Debug, Args)]
pub(super) struct Passthrough {
    /// Where simulated GPUs and the stand-in are laid out, on this machine and on the node; must not exist yet.
    dir: PathBuf,
    /// The runtime's name in containerd's configuration.
    #[arg(long, default_value = "vm", value_name = "NAME")]
    handler: String,
    /// The OCI runtime that makes the containers: runc or crun.
    #[arg(long, default_value = "/usr/bin/runc", value_name = "FILE")]
    runtime: PathBuf,
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
    #[arg(
        long,
        env = "ALIQUOT_PASSTHROUGH_IMAGE",
        default_value = "docker.io/library/busybox:stable",
        value_name = "IMAGE"
    )]
    pods: String,
    /// The namespace that is made for them, and deleted afterwards.
    #[arg(long, default_value = "passthrough")]
    namespace: String,
    /// Leaves the driver installed, and the simulated GPUs where they are.
    #[arg(long)]
    keep: bool,
    /// How many seconds anything may take to be told, to run or to be gone.
    #[arg(long, default_value_t = 120)]
    timeout: u64,
}

impl Passthrough {
    /// Takes the steps, and prints what each showed; the last line is the sum.
    pub(super) fn run(self) -> Result<(), Error> {
        build()?;
        let plan = Plan {
            dir: self.dir,
            node_name: self.node,
            on_node: self.on_node,
            kubelet: None,
            controllers: None,
            gates: None,
            machines: Some((self.handler, self.runtime)),
            image: self.image,
            pods: self.pods,
            namespace: self.namespace,
            only: Vec::new(),
            keep: self.keep,
            patience: Duration::from_secs(self.timeout),
        };
        on_cluster(async |client| {
            let report = Box::pin(symptoms::run(client, &plan, interrupted(), |outcome| println!("{outcome}"))).await?;
            println!("{}", report.sum());
            Ok::<_, symptoms::Error>(report.is_good())
        })
    }
}
