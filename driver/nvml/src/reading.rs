//! One reading of all GPUs: each answers for itself, and one that fails is named and left out.
use std::sync::atomic::{AtomicU32, Ordering};

use aliquot_model::{BrokenGpu, ComputeCapability, GpuUuid, Memory, PciAddress};
use nvml_wrapper::{Device, Nvml as Library, cuda_driver_version_major, cuda_driver_version_minor, error::NvmlError};

use crate::names;

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
}

/// Which GPU is being asked, so that a call that hangs can be laid at its door.
#[derive(Debug)]
pub(crate) struct Asking(AtomicU32);

/// No index: NVML counts at most a few dozen GPUs.
const NONE: u32 = u32::MAX;

impl Default for Asking {
    fn default() -> Self {
        Self(AtomicU32::new(NONE))
    }
}

impl Asking {
    pub(crate) fn gpu(&self) -> Option<u32> {
        Some(self.0.load(Ordering::Relaxed)).filter(|index| *index != NONE)
    }

    pub(crate) fn nothing(&self) {
        self.0.store(NONE, Ordering::Relaxed);
    }
}

/// Asks for everything once.
pub(crate) fn read(library: &Library, asking: &Asking) -> Result<Reading, NvmlError> {
    let cuda = library.sys_cuda_driver_version()?;
    let count = library.device_count()?;
    Ok(Reading {
        driver_version: library.sys_driver_version()?,
        cuda_driver_version: format!("{}.{}", cuda_driver_version_major(cuda), cuda_driver_version_minor(cuda)),
        gpus: (0..count)
            .map(|index| {
                asking.0.store(index, Ordering::Relaxed);
                read_gpu(library, index)
            })
            .collect(),
    })
}

fn read_gpu(library: &Library, index: u32) -> Result<GpuReading, BrokenGpu> {
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
