//! What goes wrong with NVML as a whole, and what an operator can do about it.
use std::{path::PathBuf, time::Duration};

use aliquot_model::GpuUuid;
use nvml_wrapper::error::NvmlError;

use crate::Reading;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The library can't be loaded, or the kernel driver doesn't answer it.
    #[error("NVML can't be started from {}: {source}; {}", path.display(), advice(source))]
    Start {
        /// The library.
        path: PathBuf,
        /// What it said.
        source: NvmlError,
    },
    /// The file is a library, but not NVML.
    #[error("{} is no NVML: it has no nvmlShutdown", path.display())]
    Foreign {
        /// The library.
        path: PathBuf,
    },
    /// A question about the whole node failed.
    #[error("NVML failed to list the GPUs: {source}; {}", advice(source))]
    List {
        /// What it said.
        #[from]
        source: NvmlError,
    },
    /// No answer in time; the call is still under way.
    #[error(
        "NVML gave no answer within {deadline:?}{}: it or the kernel driver hangs (see the kernel's log for NVRM and Xid)",
        gpu.map(|index| format!(" for GPU {index}")).unwrap_or_default()
    )]
    Overdue {
        /// How long it had.
        deadline: Duration,
        /// The index of the GPU that it was asked about.
        gpu: Option<u32>,
        /// What was read before that.
        so_far: Option<Box<Reading>>,
    },
    /// No answer in time, as nobody may ask: see [`Questions::let_go`](crate::Questions::let_go).
    #[error(
        "NVML was not asked within {deadline:?}: this driver leaves it alone while a GPU is taken from NVIDIA's kernel driver"
    )]
    Away {
        /// How long the question had.
        deadline: Duration,
    },
    /// A cgroup's memory limits on a GPU can't be set or told.
    #[error("NVML failed over the memory limits of {} on {gpu}: {source}", cgroup.display())]
    Limits {
        /// The GPU.
        gpu: GpuUuid,
        /// The cgroup's directory.
        cgroup: PathBuf,
        /// What it said.
        source: NvmlError,
    },
    /// A GPU's persistence mode can't be set.
    #[error("NVML failed over the persistence mode of {gpu}: {source}")]
    Persistence {
        /// The GPU.
        gpu: GpuUuid,
        /// What it said.
        source: NvmlError,
    },
    /// The thread can't be made, or died.
    #[error("the thread that calls NVML ended")]
    Ended,
}

impl Error {
    /// What an operator can do about it.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Start { source, .. }
            | Self::List { source }
            | Self::Limits { source, .. }
            | Self::Persistence { source, .. } => advice(source),
            Self::Foreign { .. } => "put the NVIDIA driver's own library in its place",
            Self::Overdue { .. } => {
                "see the kernel's log for NVRM and Xid messages; a GPU that hangs needs a reset, or the node a reboot"
            }
            Self::Away { .. } => "try again in half a minute",
            Self::Ended => "see the kernel's log for NVRM messages",
        }
    }
}

/// What an operator can do about an error of NVML.
fn advice(error: &NvmlError) -> &'static str {
    match error {
        NvmlError::DriverNotLoaded => "load the kernel module (modprobe nvidia) or wait for the driver to be installed",
        NvmlError::LibRmVersionMismatch => {
            "the library and the kernel module are of different versions: reboot, or reload the module, after a driver update"
        }
        NvmlError::NoPermission => "run as root, with the GPUs' device nodes accessible",
        NvmlError::LibloadingError(_) => "the file is damaged or of another architecture",
        _ => "see the kernel's log for NVRM messages",
    }
}
