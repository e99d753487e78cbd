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
pub mod bundle;
mod compat;
pub mod container;
mod log;
mod params;
mod rootfs;
pub mod state;
pub mod subject;

use std::{
    ffi::OsString,
    fmt,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, OnceLock, mpsc},
    time::{Duration, Instant},
};

use args::{Command, Order};
use bundle::Config;
use rootfs::Rootfs;
use rustix::fs::Mode;
use state::State;
use subject::Subject;

/// Others are given up on after this, with what they failed to do.
const PATIENCE: Duration = Duration::from_secs(9);
/// The end, whatever blocks.
const END: Duration = Duration::from_secs(10);
/// Of that, for telling of it.
const TELLING: Duration = Duration::from_millis(500);

/// Why a container must not start.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("nobody could be had to end this in time: {0}")]
    Watchdog(io::Error),
    #[error("the directory / can't be entered: {0}")]
    Directory(io::Error),
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

/// Does what the command line says, with the state on standard input; what fails is told on standard error and in the log.
pub fn main() -> ExitCode {
    let begun = Instant::now();
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    let told = Arc::new(Told { log: args::log(&words), subject: OnceLock::new() });
    let watchdog = std::thread::Builder::new().spawn({
        let told = Arc::clone(&told);
        move || told.end()
    });
    let ended = watchdog.map_err(Error::Watchdog).and_then(|_| run(words, &told.subject, begun + PATIENCE));
    let Err(error) = ended else { return ExitCode::SUCCESS };
    told.tell(&error);
    ExitCode::FAILURE
}

fn run(words: Vec<OsString>, subject: &OnceLock<Subject>, deadline: Instant) -> Result<(), Error> {
    // The runtime's directory may be the container's, which nothing here has business with.
    std::env::set_current_dir("/").map_err(Error::Directory)?;
    let Order { command, .. } = Order::parse(words.into_iter())?;
    let state = State::read(io::stdin().lock())?;
    let _ = subject.set(state.subject());
    match command {
        Command::Prepare(job) => {
            // What is made for the container is readable in it, whatever the runtime's umask.
            rustix::process::umask(Mode::WGRP | Mode::WOTH);
            let Config { root, dev } = state.config()?;
            Ok(container::prepare(&job, &Rootfs::open(&root)?.with_dev(dev))?)
        }
        Command::Limit(limit) => {
            let request = ask::request(&limit.claim, &limit.device, state.pid()?);
            Ok(ask::ask(&limit.socket, &request, deadline)?)
        }
    }
}

/// Where it is told why a container isn't started, and whose it is.
struct Told {
    log: Option<PathBuf>,
    /// Once the state has been read.
    subject: OnceLock<Subject>,
}

impl Told {
    fn tell(&self, why: &dyn fmt::Display) {
        tell(why);
        if let Some(path) = &self.log {
            let unknown = Subject::default();
            // The reason was told; that it is told once only doesn't make it another.
            let _ = log::append(path, self.subject.get().unwrap_or(&unknown), why);
        }
    }

    /// Ends the process in time, told or not: what blocks may be the disk with the log.
    fn end(self: Arc<Self>) {
        std::thread::sleep(END.saturating_sub(TELLING));
        let (done, is_done) = mpsc::channel();
        let telling = std::thread::Builder::new().spawn(move || {
            self.tell(&format_args!("nobody answered within {} s", END.as_secs()));
            // Nobody waits any longer where this is too late.
            let _ = done.send(());
        });
        if telling.is_ok() {
            let _ = is_done.recv_timeout(TELLING);
        }
        std::process::exit(1);
    }
}

/// On standard error, which runtimes put into the pod's event; one that is closed changes nothing.
fn tell(what: &dyn std::fmt::Display) {
    let _ = writeln!(io::stderr(), "aliquot-hook: {what}");
}
