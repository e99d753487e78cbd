//! `cargo xtask isolation`: what containers can reach of GPUs that aren't theirs, counted.
use std::{path::Path, time::Duration};

use clap::Args;

use super::{Error, build};
use crate::{
    debian::Packages,
    isolation::{self, Plan},
};

/// Options of `cargo xtask isolation`.
#[derive(Debug, Args)]
pub(super) struct Isolation {
    /// How many pods come and go with claims of all kinds.
    #[arg(long, default_value_t = 20)]
    pods: usize,
    /// For how long they do so at least.
    #[arg(long, default_value_t = 0)]
    seconds: u64,
}

impl Isolation {
    /// Runs, and prints what was tried; the last line is the sum.
    pub(super) fn run(self) -> Result<(), Error> {
        build()?;
        let exe = std::env::current_exe();
        let exe = exe.map_err(|source| Error::Io { what: "find this program".to_owned(), source })?;
        let target = exe.ancestors().find(|dir| dir.join("CACHEDIR.TAG").is_file()).unwrap_or(Path::new("target"));
        let toolbox = Packages::fetch(target).map_err(|error| Error::Broke(error.into()))?;
        let plan = Plan { pods: self.pods, time: Duration::from_secs(self.seconds), ..Plan::everything() };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.map_err(|source| Error::Io { what: "start a runtime".to_owned(), source })?;
        let tally = runtime.block_on(isolation::run(&toolbox, &plan)).map_err(Error::Broke)?;
        print!("{tally}");
        if tally.is_isolated() { Ok(()) } else { Err(Error::Broke("containers aren't isolated as told above".into())) }
    }
}
