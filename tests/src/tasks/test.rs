//! `cargo xtask test`: every test and suite.
use clap::Args;

use super::{Error, cargo};

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
