//! `cargo xtask symptoms`: the symptoms of docs/troubleshooting.md provoked on the cluster of KUBECONFIG.
use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{Error, build, interrupted, on_cluster};
use crate::{
    shell::Shell,
    symptoms::{self, Plan},
};

/// Options of `cargo xtask symptoms`.
///
/// The cluster has one node, this machine or a part of it, with the driver's image and without the driver: it is installed with
/// simulated GPUs, and uninstalled at the end. Commands are given to sh. For example, where systemd runs all:
///
/// cargo xtask image && ctr -n k8s.io images import target/aliquot.tar
///
/// cargo xtask symptoms /opt/simulated --node node1 --on-node='sh -c'
/// --stop-kubelet='systemctl stop kubelet' --start-kubelet='systemctl start kubelet'
#[derive(Debug, Args)]
pub(super) struct Symptoms {
    /// Where simulated GPUs are laid out, on this machine and on the node; must not exist yet.
    dir: PathBuf,
    /// The node's name.
    #[arg(long, default_value = "node1", value_name = "NAME")]
    node: String,
    /// Runs its last argument as a shell's script on the node, as root.
    #[arg(long, value_name = "COMMAND", default_value = "sh -c")]
    on_node: Shell,
    /// Stops the kubelet, and returns when it is gone.
    #[arg(long, value_name = "COMMAND", requires = "start_kubelet")]
    stop_kubelet: Option<Shell>,
    /// Starts it again.
    #[arg(long, value_name = "COMMAND", requires = "stop_kubelet")]
    start_kubelet: Option<Shell>,
    /// Stops kube-controller-manager, and returns when it is gone.
    #[arg(long, value_name = "COMMAND", requires = "start_controllers")]
    stop_controllers: Option<Shell>,
    /// Starts it again.
    #[arg(long, value_name = "COMMAND", requires = "stop_controllers")]
    start_controllers: Option<Shell>,
    /// Starts the API server anew with the feature gate `DRAConsumableCapacity` off.
    #[arg(long, value_name = "COMMAND", requires = "gates_on")]
    gates_off: Option<Shell>,
    /// Starts it anew with it.
    #[arg(long, value_name = "COMMAND", requires = "gates_off")]
    gates_on: Option<Shell>,
    /// The driver's image, which the node has.
    #[arg(long, default_value_t = format!("localhost/aliquot:{}", env!("CARGO_PKG_VERSION")), value_name = "NAME:TAG")]
    image: String,
    /// What the pods run: an image with sh and sleep.
    #[arg(
        long,
        env = "ALIQUOT_SYMPTOMS_IMAGE",
        default_value = "docker.io/library/busybox:stable",
        value_name = "IMAGE"
    )]
    pods: String,
    /// The namespace that is made for them, and deleted afterwards.
    #[arg(long, default_value = "symptoms")]
    namespace: String,
    /// Only these tries, by the beginnings of their names in tests/src/symptoms/tries.rs.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Leaves the driver installed, and the simulated GPUs where they are.
    #[arg(long)]
    keep: bool,
    /// How many seconds anything may take to be told, to run or to be gone.
    #[arg(long, default_value_t = 120)]
    timeout: u64,
}

impl Symptoms {
    /// Provokes all, and prints what was told of each; the last line is the sum.
    pub(super) fn run(self) -> Result<(), Error> {
        build()?;
        let plan = Plan {
            dir: self.dir,
            node_name: self.node,
            on_node: self.on_node,
            kubelet: self.stop_kubelet.zip(self.start_kubelet),
            controllers: self.stop_controllers.zip(self.start_controllers),
            gates: self.gates_off.zip(self.gates_on),
            machines: None,
            image: self.image,
            pods: self.pods,
            namespace: self.namespace,
            only: self.only,
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
