//! Wires the controller.
use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    aliquot_controller::main(aliquot_controller::args::Cli::parse())
}
