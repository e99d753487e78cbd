//! Who uses a GPU, and how much of its memory.
use std::collections::BTreeMap;

use aliquot_model::{GpuUuid, Memory};
use nvml_wrapper::{Device, enums::device::UsedGpuMemory, error::NvmlError, struct_wrappers::device::ProcessInfo};

/// How often a list is asked for that grows while it is read.
const TRIES: usize = 3;

/// The processes on one GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuProcesses {
    /// The GPU that was asked.
    pub gpu: GpuUuid,
    /// Sorted by their pid, or why this GPU didn't tell.
    pub processes: Result<Vec<GpuProcess>, String>,
}

/// What one process has of one GPU, by `nvmlDeviceGetComputeRunningProcesses_v3` and
/// `nvmlDeviceGetGraphicsRunningProcesses_v3`; the larger figure, where both list it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpuProcess {
    /// In the pid namespace of the driver.
    pub pid: u32,
    /// None where NVML has no figure.
    pub used: Option<Memory>,
}

/// Asks one GPU.
pub(crate) fn read(device: &Device<'_>) -> Result<Vec<GpuProcess>, NvmlError> {
    let mut processes = listed(|| device.running_compute_processes())?;
    match listed(|| device.running_graphics_processes()) {
        Ok(drawing) => processes.extend(drawing),
        // A GPU or a library that doesn't draw.
        Err(NvmlError::NotSupported | NvmlError::FailedToLoadSymbol(_)) => {}
        Err(error) => return Err(error),
    }
    Ok(merged(processes))
}

fn listed(list: impl Fn() -> Result<Vec<ProcessInfo>, NvmlError>) -> Result<Vec<ProcessInfo>, NvmlError> {
    let mut answer = list();
    for _ in 1..TRIES {
        match answer {
            Err(NvmlError::InsufficientSize(_)) => answer = list(),
            _ => break,
        }
    }
    answer
}

fn merged(processes: Vec<ProcessInfo>) -> Vec<GpuProcess> {
    let mut by_pid: BTreeMap<u32, Option<Memory>> = BTreeMap::new();
    for process in processes {
        let used = match process.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some(Memory::from_bytes(bytes)),
            UsedGpuMemory::Unavailable => None,
        };
        let known = by_pid.entry(process.pid).or_default();
        *known = (*known).max(used);
    }
    by_pid.into_iter().map(|(pid, used)| GpuProcess { pid, used }).collect()
}
