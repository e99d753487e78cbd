//! A GPU for tests, so that each says only what it is about.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "the names are written below")]
use crate::{Binding, ComputeCapability, DeviceId, Gpu, IommuGroup, Memory, Origin, VendorId, Vfio, VfioGpu};

/// An H100 with 80 GiB on a bus, whose number is its index and minor as well.
pub fn gpu(bus: u8) -> Gpu {
    Gpu {
        uuid: format!("GPU-{bus:08x}-6dfb-38a3-2f06-448166423d32").parse().unwrap(),
        pci: format!("0000:{bus:02x}:00.0").parse().unwrap(),
        index: bus.into(),
        minor: bus.into(),
        product_name: "NVIDIA H100 80GB HBM3".into(),
        brand: "Nvidia".into(),
        architecture: "Hopper".into(),
        compute_capability: ComputeCapability { major: 9, minor: 0 },
        memory: Memory::from_bytes(80 << 30),
        driver_version: "580.65.06".into(),
        cuda_driver_version: "13.0".into(),
        pcie_root: None,
        numa_node: None,
        drm: vec![],
        process_memory: true,
        hard_limits: false,
        needs: None,
    }
}

/// An H100 on a bus with vfio-pci, alone in an IOMMU group of that number.
pub fn vfio(bus: u8) -> Vfio {
    Vfio {
        group: IommuGroup(bus.into()),
        gpu: vfio_gpu(bus, "vfio-pci"),
        more: vec![],
        binding: Binding::Bound,
        iommufd: false,
        functions: vec![],
    }
}

/// The same while NVIDIA's driver has it.
pub fn switchable(bus: u8) -> Vfio {
    let gpu = vfio_gpu(bus, "nvidia");
    let functions = vec![Origin { pci: gpu.pci, driver: gpu.driver.clone() }];
    Vfio { gpu, binding: Binding::Switchable, functions, ..vfio(bus) }
}

/// The same GPU with a kernel driver.
pub fn vfio_gpu(bus: u8, driver: &str) -> VfioGpu {
    VfioGpu {
        pci: format!("0000:{bus:02x}:00.0").parse().unwrap(),
        vendor: VendorId::NVIDIA,
        device: DeviceId(0x2330),
        product_name: "GH100 [H100 SXM5 80GB]".into(),
        driver: Some(driver.into()),
        cdev: None,
        pcie_root: None,
        numa_node: None,
        addressable: Memory::from_bytes(128 << 30),
    }
}
