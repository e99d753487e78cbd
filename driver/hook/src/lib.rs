//! Makes containers ready for the GPUs that they hold: run by the container runtime, as an OCI hook.
//!
//! ```text
//! runtime ──OCI state──> prepare-container ──> the container's files: links, /etc/ld.so.cache, /proc/driver/nvidia/params
//!                        limit-memory ──{claim, device, pid}──> aliquot-driver ──> NVML
//!    container fails to start <── exit 1, the reason on standard error
//! ```
//! Runs as root on the host for every container that holds a GPU, in a file system that its image made. It is statically
//! linked, takes nothing from its environment, starts nothing, opens nothing by a path of the container but below its root,
//! and ends within its time whatever the others do.
#![forbid(unsafe_code)]

pub mod args;
mod ask;
mod compat;
pub mod container;
mod log;
mod params;
mod rootfs;
pub mod state;
pub mod subject;

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::{Duration, Instant},
};

use args::{Command, Order};
use rootfs::Rootfs;
use rustix::fs::Mode;
use state::State;

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
    #[error(transparent)]
    Rootfs(#[from] rootfs::Error),
    #[error(transparent)]
    Container(#[from] container::Error),
}

/// Does what the command line says, with the state on standard input; what fails is told on standard error.
pub fn main() -> ExitCode {
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
    let order = std::env::set_current_dir("/").map_err(ask::Error::from).map_err(Error::from);
    let order = order.and_then(|()| {
        let order = Order::parse(std::env::args_os().skip(1))?;
        Ok((order, State::read(io::stdin().lock())?))
    });
    let (order, state) = match order {
        Ok(order) => order,
        Err(error) => {
            tell(&error);
            return ExitCode::FAILURE;
        }
    };
    let Err(error) = run(order.command, &state, begun + PATIENCE) else {
        return ExitCode::SUCCESS;
    };
    tell(&error);
    if let Some(path) = order.log {
        // The reason was told; that it is told once only doesn't make it another.
        let _ = log::append(&path, &state.subject(), &error);
    }
    ExitCode::FAILURE
}

fn run(command: Command, state: &State, deadline: Instant) -> Result<(), Error> {
    match command {
        Command::Prepare(job) => {
            // What is made for the container is readable in it, whatever the runtime's umask.
            rustix::process::umask(Mode::WGRP | Mode::WOTH);
            Ok(container::prepare(&job, &Rootfs::open(&state.rootfs()?)?)?)
        }
        Command::Limit(limit) => {
            let request = ask::request(&limit.claim, &limit.device, state.pid()?);
            Ok(ask::ask(&limit.socket, &request, deadline)?)
        }
    }
}

/// On standard error, which runtimes put into the pod's event; one that is closed changes nothing.
fn tell(what: &dyn std::fmt::Display) {
    let _ = writeln!(io::stderr(), "aliquot-hook: {what}");
}
