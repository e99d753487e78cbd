//! The tasks of `cargo xtask`, one per file.
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The workspace's tasks.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Xtask {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Runs every test and suite; says what was skipped, and why.
    Test(test::Test),
}

/// A task that did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program could not be started.
    #[error("{program} could not be started")]
    Start {
        /// Its name.
        program: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A program ran and failed.
    #[error("{command} failed with {status}")]
    Failed {
        /// The command line.
        command: String,
        /// How it ended.
        status: std::process::ExitStatus,
    },
}

/// Parses the command line and runs the task it names.
pub fn run() -> ExitCode {
    let result = match Xtask::parse().task {
        Task::Test(test) => test.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(inner) = cause {
                text = format!("{text}: {inner}");
                cause = inner.source();
            }
            eprintln!("xtask: {text}");
            ExitCode::FAILURE
        }
    }
}
