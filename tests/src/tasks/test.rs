//! `cargo xtask test`: every test and suite.
use clap::Args;

use super::{Error, cargo};
use crate::skip;

/// Options of `cargo xtask test`.
#[derive(Debug, Args)]
pub(super) struct Test {
    /// Only tests whose name contains this.
    filter: Option<String>,
    /// Fail what would be skipped, such as suites with real containers where there is no root.
    #[arg(long)]
    no_skip: bool,
}

impl Test {
    /// Builds what the suites load or start, runs them all, and names what could not run.
    pub(super) fn run(self) -> Result<(), Error> {
        let reasons = tempfile::NamedTempFile::new();
        let reasons = reasons.map_err(|source| Error::Io { what: "make a temporary file".to_owned(), source })?;
        let mut environment = vec![(skip::REASONS, reasons.path().as_os_str().to_owned())];
        if self.no_skip {
            environment.push((skip::NO_SKIP, "1".into()));
        }
        cargo(&["build", "--locked", "--workspace", "--bins", "--lib"], &[])?;
        let mut tests = vec!["test", "--locked", "--workspace", "--no-fail-fast"];
        tests.extend(self.filter.as_deref());
        let result = cargo(&tests, &environment);
        let skipped = std::fs::read_to_string(reasons.path()).unwrap_or_default();
        match skipped.lines().count() {
            0 => println!("\nNothing was skipped."),
            count => println!("\n{count} tests were skipped:\n{skipped}"),
        }
        result
    }
}
