//! What goes wrong, in the real program's words and with its exit codes.
use nvml_wrapper::error::NvmlError;

use crate::slices::Length;

/// A reason to print nothing else. The exit code of an NVML failure is NVML's own number.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(
        "NVIDIA-SMI couldn't find libnvidia-ml.so library in your system. Please make sure that the NVIDIA Display \
         Driver is properly installed and present in your system."
    )]
    NoLibrary,
    #[error("{}", start(.0))]
    Start(NvmlError),
    #[error("No devices were found")]
    NoDevices,
    #[error("Field \"{0}\" is not a valid field to query.")]
    UnknownField(String),
    #[error("\"--format=\" option requires csv, and knows noheader and nounits, not \"{0}\".")]
    UnknownFormat(String),
    #[error("\"--format=\" switch is missing. It is required when running a query.")]
    NoFormat,
    #[error(
        "Invalid combination of input arguments: {0}. This stand-in knows -L, -q, --query-gpu=, --format= and \
         compute-policy."
    )]
    UnknownArgument(String),
    #[error("Invalid timeslice: {0}. It is 0=DEFAULT, 1=SHORT, 2=MEDIUM or 3=LONG.")]
    UnknownLength(String),
    #[error(
        "Failed to set timeslice policy with value {length} for GPU {index} : {why}\n\
         Failed to set timeslice for requested devices : {why}"
    )]
    Slice { length: Length, index: u32, why: Box<Failure> },
    #[error("Not Supported")]
    NotSupported,
    #[error("Unknown Error")]
    Ordered(u8),
    #[error("{}", words(.0))]
    Device(NvmlError),
    #[error("{0}")]
    Files(#[from] std::io::Error),
}

impl Failure {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::NoLibrary => 12,
            Self::NoDevices => 6,
            Self::Start(error) | Self::Device(error) => number(error),
            Self::Slice { why, .. } => why.exit_code(),
            Self::NotSupported => number(&NvmlError::NotSupported),
            Self::Ordered(code) => *code,
            Self::Files(_) => number(&NvmlError::Unknown),
            Self::UnknownLength(_) | Self::UnknownField(_) | Self::UnknownFormat(_) | Self::NoFormat => 2,
            Self::UnknownArgument(_) => 1,
        }
    }
}

/// The line in place of a GPU that does not answer.
pub(crate) fn device_line(index: u32, error: &NvmlError) -> String {
    format!("Unable to determine the device handle for gpu {index}: {}\n", words(error))
}

fn start(error: &NvmlError) -> String {
    match error {
        NvmlError::DriverNotLoaded => "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. \
                                       Make sure that the latest NVIDIA driver is installed and running."
            .to_owned(),
        other => format!("Failed to initialize NVML: {}", words(other)),
    }
}

fn words(error: &NvmlError) -> String {
    match error {
        NvmlError::Unknown => "Unknown Error".to_owned(),
        NvmlError::GpuLost => "GPU is lost.  Reboot the system to recover this GPU".to_owned(),
        other => other.to_string(),
    }
}

/// 255 for what does not fit an exit code, like NVML's 999 for the unknown.
fn number(error: &NvmlError) -> u8 {
    match error {
        NvmlError::InvalidArg => 2,
        NvmlError::NotSupported => 3,
        NvmlError::NoPermission => 4,
        NvmlError::NotFound => 6,
        NvmlError::DriverNotLoaded => 9,
        NvmlError::GpuLost => 15,
        _ => 255,
    }
}
