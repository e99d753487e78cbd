//! The node agent: finds GPUs, publishes them, and prepares resource claims.
//!
//! ```text
//! NVML ─┐
//! sysfs ┼─> discovery ──> View ──┬─> offer ──> offering ──> dra_plugin::slices ──> ResourceSlices
//! files ┘    policy ──────────┐  │     └──── holdings ────────┐
//!                             └──┴───────┐                    │
//! kubelet ─gRPC─> dra_plugin ─> claim: plan ─> book (intent) ─┴> sharing, edits ─> CDI spec ─> book (prepared) ─> answer
//! kubelet, slices of others ─> others ─> offering (taints), claim (refusals)
//! kubelet, API server ─> sweep: what is provably stale ─> claim: unprepare
//! book, GPUs, policy ─> facts ─> status.devices of claims
//! discovery ─> alias ─> CDI spec for runtimes that know no claims (--vfio-alias)
//! runtime ─> aliquot-hook ─socket─> sharing::limits ─> book (what was promised) ─> NVML ─> the container starts, or doesn't
//! ```
//! `offer`, `claim::plan` and `claim::hold` are pure; discovery, the policy file, the book and the spec store are the edges. The book's records are the
//! only truth about prepared claims, and every path comes from [`roots::Roots`].
#![forbid(unsafe_code)]
// These panic where a reader has left: `streams` doesn't.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod alias;
pub mod args;
pub mod claim;
mod convert;
pub mod discovery;
mod doctor;
mod edits;
mod events;
mod facts;
#[doc(hidden)]
pub mod fault;
#[cfg(fuzzing)]
pub mod fuzzing;
mod health;
mod hook;
mod inspect;
mod instance;
mod notices;
pub mod offer;
mod offering;
mod others;
mod podresources;
mod policy;
pub mod privileges;
pub mod roots;
mod run;
pub mod sharing;
mod status;
mod streams;
mod sweep;
mod telemetry;
mod uninstall;

use std::process::ExitCode;

use aliquot_daemon::report;
use args::{Cli, Command, PolicyCommand};

/// Does what the command line says.
pub fn main(cli: Cli) -> ExitCode {
    let result = match cli.command {
        Command::Doctor(args) => match doctor::run(&args) {
            Ok(code) => return code,
            Err(error) => Err(report(&error)),
        },
        Command::Status(args) => status::run(&args).map_err(|error| report(&error)),
        Command::Run(args) => run::run(*args).map_err(|error| report(&error)),
        Command::Inspect(args) => inspect::inspect(&args).map_err(|error| report(&error)),
        Command::Policy(PolicyCommand::Schema) => policy::check::schema().map_err(|error| report(&error)),
        Command::Policy(PolicyCommand::Check(args)) => policy::check::check(&args).map_err(|error| report(&error)),
        Command::Uninstall(args) => uninstall::run(&args).map_err(|error| report(&error)),
        Command::Convert(args) => convert::run(&args).map_err(|error| report(&error)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            streams::tell(format_args!("aliquot-driver: {text}"));
            ExitCode::FAILURE
        }
    }
}
