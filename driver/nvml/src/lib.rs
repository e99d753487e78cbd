//! A thread that owns libnvidia-ml and answers with plain data.
//!
//! ```text
//! Nvml::read ──request──> thread: open, init, ask every GPU ──Reading──> caller, or an error after the deadline
//! Questions::… ─request──> the same thread and session: ask these GPUs ──> caller, or an error after the deadline
//! Questions::samples ───> threads for as long as somebody asks: what do these GPUs measure ──> caller, without those that hang
//! Nvml::watching ────────> a second thread: wait for events ──GpuEvent──> whoever is told
//! Questions::let_go ─────> all of these end, and none begins until the Absence is dropped
//! ```
//! NVML blocks for as long as the kernel driver does, for minutes when a GPU hangs. So nothing asynchronous ever calls it,
//! and a call that is overdue costs its answer and nothing else.

mod away;
mod desk;
mod error;
mod events;
mod limits;
mod names;
mod processes;
mod progress;
mod questions;
mod reading;
mod recovery;
mod samplers;
mod samples;
mod worker;

use std::path::{Path, PathBuf};

pub use away::Absence;
pub use error::Error;
pub use events::{EventKind, GpuEvent};
pub use limits::MemoryLimits;
pub use processes::{GpuProcess, GpuProcesses};
pub use questions::Questions;
pub use reading::{GpuReading, Reading};
pub use samplers::Patience;
pub use samples::{Errors, MemoryUse, NoSample, NvlinkErrors, ProcessShare, Sample, Sampled, Throttle, Traffic};
pub use worker::{Nvml, Session};

/// Directories below a driver's root where distributions put libnvidia-ml, in the order of the search.
const DIRS: [&str; 6] = [
    #[cfg(target_arch = "x86_64")]
    "usr/lib/x86_64-linux-gnu",
    #[cfg(target_arch = "aarch64")]
    "usr/lib/aarch64-linux-gnu",
    "usr/lib64",
    "usr/lib",
    "usr/local/nvidia/lib64",
    "usr/local/glibc/usr/lib",
    "run/opengl-driver/lib",
];

/// Everywhere that the library may be below a driver's root.
pub fn candidates(root: &Path) -> Vec<PathBuf> {
    DIRS.iter().map(|dir| root.join(dir).join("libnvidia-ml.so.1")).collect()
}
