//! `cargo xtask node`: a simulated GPU node's files, for trying the driver on a cluster without GPUs.
use std::path::PathBuf;

use clap::Args;
use fake_nvml::Profile;

use super::{Error, build};
use crate::node::{Artifacts, Node};

/// Options of `cargo xtask node`.
#[derive(Debug, Args)]
pub(super) struct Lay {
    /// Where; must not exist yet.
    dir: PathBuf,
    /// Which GPUs: h100x8, a100x4, l40sx2, t4x1, mixed, limits or failing.
    #[arg(long, default_value = "h100x8")]
    profile: String,
}

impl Lay {
    /// Lays the node out and says how to start the driver on it.
    pub(super) fn run(self) -> Result<(), Error> {
        build()?;
        let profile = Profile::named(&self.profile).ok_or(Error::UnknownProfile(self.profile))?;
        let node = Artifacts::find().and_then(|artifacts| Node::lay_out(&self.dir, profile, &artifacts));
        let node =
            node.map_err(|source| Error::Io { what: format!("lay out a node in {}", self.dir.display()), source })?;
        let command = node.driver("run");
        println!("# the driver on this node, but for --node-name, --kubelet-root and KUBECONFIG:");
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                println!("export {}={}", name.to_string_lossy(), value.to_string_lossy());
            }
        }
        println!("{} run", command.get_program().to_string_lossy());
        Ok(())
    }
}
