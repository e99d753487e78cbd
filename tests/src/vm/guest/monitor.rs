//! Stands in for a virtual machine's monitor: it opens a group and its GPU as Cloud Hypervisor does, with the same library.
use std::sync::Arc;

use vfio_bindings::bindings::vfio::{VFIO_PCI_BAR1_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX};
use vfio_ioctls::{VfioContainer, VfioDevice, VfioError};

use super::kernel;

/// A GPU that a virtual machine has; it has it until this is dropped.
pub(super) struct Monitor {
    device: VfioDevice,
}

impl Monitor {
    /// Checks that the group is viable, gives it an IOMMU of type 1, and takes the GPU.
    pub(super) fn open(pci: &str) -> Result<Self, VfioError> {
        let container = Arc::new(VfioContainer::new(None)?);
        Ok(Self { device: VfioDevice::new(&kernel::dir(pci), container, false)? })
    }

    /// Vendor and device, from the GPU itself.
    pub(super) fn ids(&self) -> [u16; 2] {
        let mut bytes = [0; 4];
        self.device.region_read(VFIO_PCI_CONFIG_REGION_INDEX, &mut bytes, 0);
        let [a, b, c, d] = bytes;
        [u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])]
    }

    /// The size of the region through which a guest reaches the memory.
    pub(super) fn largest_region(&self) -> u64 {
        self.device.get_region_size(VFIO_PCI_BAR1_REGION_INDEX)
    }

    /// Resets it, as at each start of a virtual machine.
    pub(super) fn reset(&self) {
        self.device.reset();
    }
}
