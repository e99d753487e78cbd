//! One GPU, and all that a node has of them.
use serde::{Deserialize, Serialize};

use crate::{DeviceName, GpuUuid, Memory, Part, PciAddress, Remedy, Vfio};

/// CUDA compute capability (`nvmlDeviceGetCudaComputeCapability`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ComputeCapability {
    /// 9 on Hopper.
    pub major: u32,
    /// 0 on Hopper.
    pub minor: u32,
}

/// A GPU that answers, with what NVML and sysfs say of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gpu {
    /// `nvmlDeviceGetUUID`.
    pub uuid: GpuUuid,
    /// `nvmlDeviceGetPciInfo`.
    pub pci: PciAddress,
    /// NVML's index; it changes when GPUs come and go.
    pub index: u32,
    /// N in /dev/nvidiaN (`nvmlDeviceGetMinorNumber`); it need not be the index.
    pub minor: u32,
    /// `nvmlDeviceGetName`, for example `NVIDIA H100 80GB HBM3`.
    pub product_name: String,
    /// `nvmlDeviceGetBrand`, for example `Nvidia`; `Unknown` where this build doesn't know the number.
    pub brand: String,
    /// `nvmlDeviceGetArchitecture`, for example `Hopper`; `Unknown` where this build doesn't know the number.
    pub architecture: String,
    /// `nvmlDeviceGetCudaComputeCapability`.
    pub compute_capability: ComputeCapability,
    /// The memory that the hardware has (`nvmlDeviceGetMemoryInfo_v2`, total).
    pub memory: Memory,
    /// `nvmlSystemGetDriverVersion`, as the driver writes it.
    pub driver_version: String,
    /// The CUDA version that the driver supports (`nvmlSystemGetCudaDriverVersion_v2`).
    pub cuda_driver_version: String,
    /// The PCIe root complex, for example `pci0000:40`; the first such element of the device's path in sysfs.
    pub pcie_root: Option<String>,
    /// The NUMA node from sysfs; none where the kernel says -1.
    pub numa_node: Option<u32>,
    /// Its nodes below /dev/dri, for graphics and video; none where the kernel was started without `nvidia-drm`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drm: Vec<DrmNode>,
    /// Whether the driver tells how much memory each process uses (`nvmlDeviceGetComputeRunningProcesses_v3`).
    pub process_memory: bool,
    /// Whether NVIDIA's driver can hold a container to its part of the memory (`nvmlDeviceSetMemoryLimits_v1`), and this
    /// node has what it takes to have that done.
    pub hard_limits: bool,
    /// What NVIDIA's driver says has to be done before anybody uses it (`NVML_FI_DEV_GET_GPU_RECOVERY_ACTION`); none where
    /// it doesn't say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs: Option<Remedy>,
}

/// A device node of the kernel's Direct Rendering Manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrmNode {
    /// `card1` or `renderD129`.
    pub name: String,
    /// Always 226 so far.
    pub major: u32,
    /// 1 for `card1`, 129 for `renderD129`.
    pub minor: u32,
}

impl Gpu {
    /// The name under which the whole GPU is published.
    pub fn whole_name(&self) -> DeviceName {
        DeviceName::whole(self.pci)
    }
}

/// A GPU which the driver lists but which doesn't answer as it should.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BrokenGpu {
    /// NVML's index.
    pub index: u32,
    /// Where it sits, if it says so.
    pub pci: Option<PciAddress>,
    /// Which question it failed to answer, and how.
    pub reason: String,
}

/// What a node has, in the order of PCI addresses.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Inventory {
    gpus: Vec<Gpu>,
    broken: Vec<BrokenGpu>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    vfio: Vec<Vfio>,
}

impl Inventory {
    /// Sorts, so that the same hardware always gives the same inventory.
    pub fn new(mut gpus: Vec<Gpu>, mut broken: Vec<BrokenGpu>) -> Self {
        gpus.sort_by_key(|gpu| gpu.pci);
        broken.sort_by_key(|gpu| gpu.index);
        Self { gpus, broken, vfio: Vec::new() }
    }

    /// With what virtual machines can be given.
    #[must_use]
    pub fn with_vfio(mut self, mut vfio: Vec<Vfio>) -> Self {
        vfio.sort_by_key(|vfio| vfio.gpu.pci);
        self.vfio = vfio;
        self
    }

    /// The GPUs that answer.
    pub fn gpus(&self) -> &[Gpu] {
        &self.gpus
    }

    /// The GPUs that don't.
    pub fn broken(&self) -> &[BrokenGpu] {
        &self.broken
    }

    /// What virtual machines can be given, or why not.
    pub fn vfio(&self) -> &[Vfio] {
        &self.vfio
    }

    /// What a device's name for virtual machines stands for.
    pub fn passthrough(&self, name: &DeviceName) -> Option<&Vfio> {
        self.vfio.iter().find(|vfio| name.part_of(vfio.gpu.pci) == Some(Part::Vfio))
    }

    /// The GPUs of an IOMMU group as NVIDIA's driver tells of them; none if it doesn't have all of them.
    pub fn of_group<'a>(&'a self, vfio: &'a Vfio) -> Option<Vec<&'a Gpu>> {
        vfio.gpus().map(|gpu| self.gpus.iter().find(|known| known.pci == gpu.pci)).collect()
    }

    /// The GPUs of an earlier inventory that are not here any more, not even as broken ones.
    pub fn gone_since<'a>(&'a self, earlier: &'a Self) -> impl Iterator<Item = &'a Gpu> {
        let is_here = |gpu: &Gpu| {
            self.gpus.iter().any(|here| here.pci == gpu.pci) || self.broken.iter().any(|here| here.pci == Some(gpu.pci))
        };
        earlier.gpus.iter().filter(move |gpu| !is_here(gpu))
    }

    /// Where a GPU sits, also one that is known by nothing else.
    pub fn place(&self, gpu: &GpuUuid) -> Option<PciAddress> {
        let listed = self.gpus.iter().find(|known| known.uuid == *gpu).map(|known| known.pci);
        let in_sysfs = self.vfio.iter().flat_map(Vfio::gpus).map(|known| known.pci);
        listed.or_else(|| in_sysfs.into_iter().find(|pci| GpuUuid::of_place(*pci) == *gpu))
    }

    /// The GPU behind a device's name, and which part of it the device is.
    pub fn device(&self, name: &DeviceName) -> Option<(&Gpu, Part)> {
        self.gpus.iter().find_map(|gpu| Some((gpu, name.part_of(gpu.pci)?)))
    }
}
