//! One reading of all GPUs: each answers for itself, and one that fails is named and left out.
use std::path::Path;

use aliquot_model::{BrokenGpu, ComputeCapability, GpuUuid, Memory, PciAddress, Remedy};
use nvml_wrapper::{Device, Nvml as Library, cuda_driver_version_major, cuda_driver_version_minor, error::NvmlError};

use crate::{limits, names, progress::Progress, recovery};

/// All that one reading found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// `nvmlSystemGetDriverVersion`.
    pub driver_version: String,
    /// `nvmlSystemGetCudaDriverVersion_v2` as `major.minor`.
    pub cuda_driver_version: String,
    /// In the order of NVML's index.
    pub gpus: Vec<Result<GpuReading, BrokenGpu>>,
}

/// What NVML says of one GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuReading {
    /// `nvmlDeviceGetUUID`.
    pub uuid: GpuUuid,
    /// `nvmlDeviceGetPciInfo_v3`.
    pub pci: PciAddress,
    /// NVML's index.
    pub index: u32,
    /// `nvmlDeviceGetMinorNumber`: N in /dev/nvidiaN.
    pub minor: u32,
    /// `nvmlDeviceGetName`.
    pub product_name: String,
    /// `nvmlDeviceGetBrand`.
    pub brand: String,
    /// `nvmlDeviceGetArchitecture`.
    pub architecture: String,
    /// `nvmlDeviceGetCudaComputeCapability`.
    pub compute_capability: ComputeCapability,
    /// `nvmlDeviceGetMemoryInfo_v2`, total.
    pub memory: Memory,
    /// Whether `nvmlDeviceGetComputeRunningProcesses_v3` tells who uses it.
    pub process_memory: bool,
    /// Whether `nvmlDeviceSetMemoryLimits_v1` can limit a cgroup's memory on it.
    pub memory_limits: bool,
    /// What it needs before it is used (`NVML_FI_DEV_GET_GPU_RECOVERY_ACTION`), if the driver says so.
    pub needs: Option<Remedy>,
}

/// Asks for everything once; the reading is in `progress` afterwards.
pub(crate) fn read(library: &Library, path: &Path, progress: &Progress) -> Result<(), NvmlError> {
    let cuda = library.sys_cuda_driver_version()?;
    let count = library.device_count()?;
    progress.begin(Reading {
        driver_version: library.sys_driver_version()?,
        cuda_driver_version: format!("{}.{}", cuda_driver_version_major(cuda), cuda_driver_version_minor(cuda)),
        gpus: Vec::new(),
    });
    for index in 0..count {
        progress.ask(Some(index));
        progress.answered(read_gpu(library, path, index));
    }
    Ok(())
}

fn read_gpu(library: &Library, path: &Path, index: u32) -> Result<GpuReading, BrokenGpu> {
    let broken = |pci: Option<PciAddress>, question: &str, error: &dyn std::fmt::Display| BrokenGpu {
        index,
        pci,
        reason: format!("it failed to answer for its {question}: {error}"),
    };
    let device = library.device_by_index(index).map_err(|error| broken(None, "handle", &error))?;
    let pci: PciAddress = match device.pci_info() {
        Ok(info) => info.bus_id.parse().map_err(|error| broken(None, "PCI address", &error))?,
        Err(error) => return Err(broken(None, "PCI address", &error)),
    };
    let ask = |question: &'static str| move |error: NvmlError| broken(Some(pci), question, &error);
    let uuid = device.uuid().map_err(ask("UUID"))?;
    let capability = device.cuda_compute_capability().map_err(ask("CUDA compute capability"))?;
    let number = |value: i32| u32::try_from(value).unwrap_or_default();
    Ok(GpuReading {
        uuid: uuid.parse().map_err(|error| broken(Some(pci), "UUID", &error))?,
        pci,
        index,
        minor: device.minor_number().map_err(ask("minor number"))?,
        product_name: device.name().map_err(ask("name"))?,
        brand: names::brand(device.brand()).map_err(ask("brand"))?,
        architecture: names::architecture(device.architecture()).map_err(ask("architecture"))?,
        compute_capability: ComputeCapability { major: number(capability.major), minor: number(capability.minor) },
        memory: memory(&device).map_err(ask("memory"))?,
        // A GPU that keeps this to itself is offered nevertheless.
        process_memory: device.running_compute_processes_count().is_ok(),
        memory_limits: limits::are_known(path, &device),
        needs: recovery::needed(&device),
    })
}

/// A GPU that shares the host's memory (GB10, Jetson) has none of its own to tell of.
fn memory(device: &Device<'_>) -> Result<Memory, NvmlError> {
    match device.memory_info() {
        Ok(info) => Ok(Memory::from_bytes(info.total)),
        Err(NvmlError::NotSupported) => Ok(Memory::from_bytes(0)),
        Err(error) => Err(error),
    }
}
