//! One reading of all GPUs: each answers for itself, and one that fails is named and left out.
use std::sync::{Mutex, MutexGuard, PoisonError};

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

/// How far a reading has come, so that a call that hangs can be laid at its GPU's door and costs no other GPU.
#[derive(Debug, Default)]
pub(crate) struct Progress(Mutex<Option<Unfinished>>);

/// A reading that is under way.
#[derive(Debug, Clone)]
struct Unfinished {
    so_far: Reading,
    asking: u32,
}

impl Progress {
    /// What was read so far, and the index of the GPU that is being asked.
    pub(crate) fn so_far(&self) -> Option<(Reading, u32)> {
        self.lock().clone().map(|unfinished| (unfinished.so_far, unfinished.asking))
    }

    /// Forgets a reading that has ended, and gives what it read.
    pub(crate) fn end(&self) -> Option<Reading> {
        self.lock().take().map(|unfinished| unfinished.so_far)
    }

    fn begin(&self, so_far: Reading) {
        *self.lock() = Some(Unfinished { so_far, asking: 0 });
    }

    fn answered(&self, gpu: Result<GpuReading, BrokenGpu>) {
        if let Some(unfinished) = &mut *self.lock() {
            unfinished.so_far.gpus.push(gpu);
            unfinished.asking += 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Unfinished>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks for everything once; the reading is in `progress` afterwards.
pub(crate) fn read(library: &Library, progress: &Progress) -> Result<(), NvmlError> {
    let cuda = library.sys_cuda_driver_version()?;
    let count = library.device_count()?;
    progress.begin(Reading {
        driver_version: library.sys_driver_version()?,
        cuda_driver_version: format!("{}.{}", cuda_driver_version_major(cuda), cuda_driver_version_minor(cuda)),
        gpus: Vec::new(),
    });
    for index in 0..count {
        progress.answered(read_gpu(library, index));
    }
    Ok(())
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
