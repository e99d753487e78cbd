//! A stand-in for `nvidia-smi` that asks the NVML library it finds: what it lists is what a container was given.
mod failure;
mod policy;
mod report;
mod slices;

use std::process::ExitCode;

use nvml_wrapper::{Nvml, error::NvmlError};

use crate::failure::Failure;
use crate::policy::Policy;
use crate::report::{Format, Report};

/// The loader's own search, then where a container without its cache has the driver's libraries.
const LIBRARIES: [&str; 5] = [
    "libnvidia-ml.so.1",
    "/usr/lib64/libnvidia-ml.so.1",
    "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1",
    "/usr/lib/aarch64-linux-gnu/libnvidia-ml.so.1",
    "/usr/lib/libnvidia-ml.so.1",
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("{failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(arguments: &[String]) -> Result<String, Failure> {
    if let Some(("compute-policy", arguments)) = arguments.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        let policy = Policy::parse(arguments)?;
        return policy.run(&load()?);
    }
    let report = parse(arguments)?;
    let nvml = load()?;
    let count = nvml.device_count().map_err(Failure::Start)?;
    if count == 0 {
        return Err(Failure::NoDevices);
    }
    report.of(&nvml, count)
}

fn parse(arguments: &[String]) -> Result<Report, Failure> {
    let mut report = Report::Table;
    let mut format = None;
    for argument in arguments {
        match argument.as_str() {
            "-L" | "--list-gpus" => report = Report::List,
            "-q" | "--query" => report = Report::Query,
            other => match other.split_once('=') {
                Some(("--query-gpu", fields)) => report = Report::csv(fields)?,
                Some(("--format", options)) => format = Some(Format::parse(options)?),
                _ => return Err(Failure::UnknownArgument(other.to_owned())),
            },
        }
    }
    match (report, format) {
        (Report::Csv(fields, _), Some(format)) => Ok(Report::Csv(fields, format)),
        (Report::Csv(..), None) => Err(Failure::NoFormat),
        (report, _) => Ok(report),
    }
}

fn load() -> Result<Nvml, Failure> {
    for library in LIBRARIES {
        match Nvml::builder().lib_path(library.as_ref()).init() {
            Err(NvmlError::LibloadingError(_)) => {}
            result => return result.map_err(Failure::Start),
        }
    }
    Err(Failure::NoLibrary)
}
