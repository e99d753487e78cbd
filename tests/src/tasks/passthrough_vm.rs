//! `cargo xtask passthrough-vm`: GPUs for virtual machines, against a real kernel.
use std::{path::Path, time::Duration};

use clap::{Args, ValueEnum};

use super::{Error, build};
use crate::vm::{self, Plan, Release};

/// Options of `cargo xtask passthrough-vm`.
#[derive(Debug, Args)]
pub(super) struct PassthroughVm {
    /// Whose kernel it has.
    #[arg(long, value_enum, default_value_t = Release::Stable)]
    release: Release,
    /// What runs the machine's instructions.
    #[arg(long, value_enum, default_value_t = Accelerator::Tcg)]
    accelerator: Accelerator,
    /// How many seconds the machine may take.
    #[arg(long, default_value_t = 900)]
    timeout: u64,
}

/// As qemu calls them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Accelerator {
    /// qemu itself: slower, and works everywhere.
    Tcg,
    /// The processor: needs /dev/kvm.
    Kvm,
}

impl PassthroughVm {
    /// Starts the machine, and prints what is seen in it; the last line is the sum.
    pub(super) fn run(self) -> Result<(), Error> {
        build()?;
        let exe = std::env::current_exe();
        let exe = exe.map_err(|source| Error::Io { what: "find this program".to_owned(), source })?;
        let target = exe.ancestors().find(|dir| dir.join("CACHEDIR.TAG").is_file()).unwrap_or(Path::new("target"));
        let accelerator = match self.accelerator {
            Accelerator::Tcg => "tcg",
            Accelerator::Kvm => "kvm",
        };
        let plan = Plan {
            release: self.release,
            accelerator: accelerator.to_owned(),
            patience: Duration::from_secs(self.timeout),
        };
        let is_good = vm::run(target, &plan, |line| println!("{line}")).map_err(|error| Error::Broke(error.into()))?;
        if is_good { Ok(()) } else { Err(Error::Broke("not all came out as it must, as told above".into())) }
    }
}

/// Takes the steps in the machine.
pub(super) fn inside() -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|source| Error::Io { what: "start a runtime".to_owned(), source })?;
    runtime.block_on(vm::inside(|step| println!("{step}"))).map_err(Error::Broke)
}
