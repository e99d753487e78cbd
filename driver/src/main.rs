//! Wires the node agent.
use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    aliquot_driver::main(aliquot_driver::args::Cli::parse())
}
