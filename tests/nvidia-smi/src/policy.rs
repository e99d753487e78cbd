//! `compute-policy`: how long a GPU's time slices are.
use std::fmt::Write as _;

use nvml_wrapper::{Device, Nvml, error::NvmlError};

use crate::{
    failure::Failure,
    slices::{Length, Slices},
};

const HELP: &str = "This stand-in knows compute-policy [-i GPU,...] with --set-timeslice 0..3 or -l.\n";

/// What was asked for, and of which GPUs; none named are all.
#[derive(Debug, Default)]
pub(crate) struct Policy {
    gpus: Option<String>,
    action: Action,
}

#[derive(Debug, Default)]
enum Action {
    #[default]
    Help,
    List,
    Set(Length),
}

impl Policy {
    /// From what follows `compute-policy`.
    pub(crate) fn parse(arguments: &[String]) -> Result<Self, Failure> {
        let mut policy = Self::default();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let (name, joined) = match argument.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (argument.as_str(), None),
            };
            let mut value = || joined.or_else(|| arguments.next().map(String::as_str));
            let unknown = || Failure::UnknownArgument(argument.clone());
            match name {
                "-i" | "--id" => policy.gpus = Some(value().ok_or_else(unknown)?.to_owned()),
                "--set-timeslice" => {
                    let number = value().ok_or_else(unknown)?;
                    let length = Length::parse(number).ok_or_else(|| Failure::UnknownLength(number.to_owned()))?;
                    policy.action = Action::Set(length);
                }
                "-l" | "--list" => policy.action = Action::List,
                "-h" | "--help" => policy.action = Action::Help,
                _ => return Err(unknown()),
            }
        }
        Ok(policy)
    }

    /// Does it, and gives what is to be printed.
    pub(crate) fn run(&self, nvml: &Nvml) -> Result<String, Failure> {
        match self.action {
            Action::Help => Ok(HELP.to_owned()),
            Action::List => list(&self.gpus(nvml)?),
            Action::Set(length) => set(&self.gpus(nvml)?, length),
        }
    }

    fn gpus<'a>(&self, nvml: &'a Nvml) -> Result<Vec<Device<'a>>, Failure> {
        let gpus: Result<Vec<_>, NvmlError> = if let Some(names) = &self.gpus {
            names.split(',').map(|name| find(nvml, name.trim())).collect()
        } else {
            let count = nvml.device_count().map_err(Failure::Start)?;
            (0..count).map(|index| nvml.device_by_index(index)).collect()
        };
        match gpus {
            Ok(gpus) if gpus.is_empty() => Err(Failure::NoDevices),
            Err(NvmlError::NotFound | NvmlError::InvalidArg) => Err(Failure::NoDevices),
            gpus => gpus.map_err(Failure::Device),
        }
    }
}

fn find<'a>(nvml: &'a Nvml, name: &str) -> Result<Device<'a>, NvmlError> {
    match name.parse() {
        Ok(index) => nvml.device_by_index(index),
        Err(_) if name.starts_with("GPU-") => nvml.device_by_uuid(name),
        Err(_) => nvml.device_by_pci_bus_id(name),
    }
}

fn list(gpus: &[Device<'_>]) -> Result<String, Failure> {
    let slices = Slices::open()?;
    let mut text = "GPU compute policies:\n".to_owned();
    for gpu in gpus {
        let uuid = gpu.uuid().map_err(Failure::Device)?;
        let index = gpu.index().map_err(Failure::Device)?;
        // Writing to a string does not fail.
        let _ = writeln!(text, "  GPU {index}: Timeslice: {}", slices.of(&uuid)?);
    }
    Ok(text)
}

fn set(gpus: &[Device<'_>], length: Length) -> Result<String, Failure> {
    let slices = Slices::open()?;
    let mut text = String::new();
    for gpu in gpus {
        let index = gpu.index().map_err(Failure::Device)?;
        let done = gpu.uuid().map_err(Failure::Device).and_then(|uuid| slices.set(&uuid, length));
        done.map_err(|why| Failure::Slice { length, index, why: Box::new(why) })?;
        let _ = writeln!(text, "Successfully set timeslice policy with value {length} for GPU {index}");
    }
    Ok(text)
}
