//! `cargo xtask passthrough`: GPUs for virtual machines on the cluster of KUBECONFIG, with a stand-in for Kata Containers.
use std::path::PathBuf;

use clap::Args;

use super::{Error, installed::Installed};
use crate::symptoms::Plan;

/// Options of `cargo xtask passthrough`.
///
/// containerd on the node has a runtime whose program is DIR/vm/vm-runtime, which is put there, of type io.containerd.runc.v2, and
/// to which the pod annotations cdi.k8s.io/* are handed.
#[derive(Debug, Args)]
pub(super) struct Passthrough {
    #[command(flatten)]
    installed: Installed,
    /// The runtime's name in containerd's configuration.
    #[arg(long, default_value = "vm", value_name = "NAME")]
    handler: String,
    /// The OCI runtime that makes the containers: runc or crun.
    #[arg(long, default_value = "/usr/bin/runc", value_name = "FILE")]
    runtime: PathBuf,
}

impl Passthrough {
    /// Takes the steps, and prints what each showed.
    pub(super) fn run(self) -> Result<(), Error> {
        let machines = Some((self.handler, self.runtime));
        self.installed.run(|plan| Plan { machines, ..plan })
    }
}
