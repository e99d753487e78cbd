//! `cargo xtask symptoms`: the symptoms of docs/troubleshooting.md provoked on the cluster of KUBECONFIG.
use clap::Args;

use super::{Error, installed::Installed};
use crate::{shell::Shell, symptoms::Plan};

/// Options of `cargo xtask symptoms`.
///
/// Commands are given to sh. For example, where systemd runs all:
///
/// cargo xtask image && ctr -n k8s.io images import target/aliquot.tar
///
/// cargo xtask symptoms /opt/simulated --node node1 --on-node='sh -c'
/// --stop-kubelet='systemctl stop kubelet' --start-kubelet='systemctl start kubelet'
#[derive(Debug, Args)]
pub(super) struct Symptoms {
    #[command(flatten)]
    installed: Installed,
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
    /// Only these tries, by the beginnings of their names in tests/src/symptoms/tries.rs.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

impl Symptoms {
    /// Provokes all, and prints what was told of each.
    pub(super) fn run(self) -> Result<(), Error> {
        let kubelet = self.stop_kubelet.zip(self.start_kubelet);
        let controllers = self.stop_controllers.zip(self.start_controllers);
        let (gates, only) = (self.gates_off.zip(self.gates_on), self.only);
        self.installed.run(|plan| Plan { kubelet, controllers, gates, only, ..plan })
    }
}
