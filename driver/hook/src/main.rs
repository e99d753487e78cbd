//! Asks the driver for what a container may only have once it exists: run by the container runtime, as an OCI hook.
//!
//! ```text
//! runtime ──OCI state──> limit-memory ──{claim, device, pid}──> aliquot-driver ──> NVML
//!    container fails to start <── exit 1 <── {"error": …} <──┘
//! ```
//! Runs as root on the host for every container that holds such a share. It is statically linked, takes nothing from its
//! environment, starts nothing, opens no file, and ends within its time whatever the others do.
#![forbid(unsafe_code)]

mod args;
mod ask;
mod state;

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::{Duration, Instant},
};

use args::Args;

/// Others are given up on after this, with what they failed to do.
const PATIENCE: Duration = Duration::from_secs(9);
/// The end, whatever blocks.
const END: Duration = Duration::from_secs(10);

/// Why a container must not start.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Args(#[from] args::Error),
    #[error(transparent)]
    State(#[from] state::Error),
    #[error(transparent)]
    Ask(#[from] ask::Error),
}

fn main() -> ExitCode {
    let begun = Instant::now();
    let watchdog = std::thread::Builder::new().spawn(|| {
        std::thread::sleep(END);
        tell(&"nobody answered within 10 s");
        std::process::exit(1);
    });
    if let Err(error) = watchdog {
        tell(&error);
        return ExitCode::FAILURE;
    }
    // The runtime's directory may be the container's, which nothing here has business with.
    let result = std::env::set_current_dir("/").map_err(ask::Error::from).map_err(Error::from);
    match result.and_then(|()| run(begun + PATIENCE)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(deadline: Instant) -> Result<(), Error> {
    let Args { socket, claim, device } = Args::parse(std::env::args_os().skip(1))?;
    let pid = state::pid(io::stdin().lock())?;
    Ok(ask::ask(&socket, &ask::request(&claim, &device, pid), deadline)?)
}

/// On standard error, which runtimes put into the pod's event; one that is closed changes nothing.
fn tell(what: &dyn std::fmt::Display) {
    let _ = writeln!(io::stderr(), "aliquot-hook: {what}");
}
