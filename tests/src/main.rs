//! Wires the workspace tasks: `cargo xtask <task>`.
use std::process::ExitCode;

use aliquot_tests::tasks;

fn main() -> ExitCode {
    tasks::run()
}
