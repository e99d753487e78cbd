//! `cargo xtask test`: every test and suite.
use std::process::Command;

use clap::Args;

use super::Error;

/// Options of `cargo xtask test`.
#[derive(Debug, Args)]
pub(super) struct Test {
    /// Only tests whose name contains this.
    filter: Option<String>,
}

impl Test {
    /// Builds what the suites load or start, then runs them all.
    pub(super) fn run(self) -> Result<(), Error> {
        cargo(&["build", "--locked", "--workspace", "--bins", "--lib"])?;
        let mut tests = vec!["test", "--locked", "--workspace", "--no-fail-fast"];
        tests.extend(self.filter.as_deref());
        cargo(&tests)
    }
}

fn cargo(arguments: &[&str]) -> Result<(), Error> {
    let program = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let status = Command::new(&program)
        .args(arguments)
        .status()
        .map_err(|source| Error::Start { program: program.clone(), source })?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Failed { command: format!("cargo {}", arguments.join(" ")), status })
}
