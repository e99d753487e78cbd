//! What a virtual machine can be given: GPUs by their IOMMU group, and what stands in the way.
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{DeviceName, Gpu, Memory, Part, PciAddress};

/// The number of an IOMMU group, as in `/sys/kernel/iommu_groups`: the least that can be given to a virtual machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct IommuGroup(pub u32);

impl fmt::Display for IommuGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who made a PCI function (its configuration space, and `vendor` in sysfs).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VendorId(pub u16);

impl VendorId {
    /// NVIDIA.
    pub const NVIDIA: Self = Self(0x10de);
}

impl fmt::Display for VendorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#06x}", self.0)
    }
}

/// What its maker calls a PCI function (`device` in sysfs).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DeviceId(pub u16);

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#06x}", self.0)
    }
}

/// A GPU as sysfs knows it, whichever kernel driver has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VfioGpu {
    /// Where it sits.
    pub pci: PciAddress,
    /// Always NVIDIA's.
    pub vendor: VendorId,
    /// Which model.
    pub device: DeviceId,
    /// By pci.ids, for example `GH100 [H100 SXM5 80GB]`; the ids in hexadecimal where that isn't there.
    pub product_name: String,
    /// The kernel driver that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// `vfioN` in /dev/vfio/devices, where a vfio driver has it and the kernel has such nodes (`CONFIG_VFIO_DEVICE_CDEV`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cdev: Option<String>,
    /// As of [`crate::Gpu`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pcie_root: Option<String>,
    /// As of [`crate::Gpu`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numa_node: Option<u32>,
    /// The size of its largest region, through which a guest's driver reaches its memory.
    pub addressable: Memory,
}

/// Whether a group can be given to a virtual machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Binding {
    /// As it is: all of it is with vfio drivers or with none.
    Bound,
    /// After its GPUs were taken from NVIDIA's driver.
    Switchable,
    /// Not; why, in words.
    Unusable(String),
}

impl Binding {
    /// Why it can't be given to a virtual machine as it is, in words.
    pub fn trouble(&self) -> Option<&str> {
        match self {
            Self::Bound => None,
            Self::Switchable => Some("no vfio driver of the kernel has it"),
            Self::Unusable(reason) => Some(reason),
        }
    }
}

/// The GPUs of one IOMMU group, which go to one virtual machine together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Vfio {
    /// The group.
    pub group: IommuGroup,
    /// The GPU at its lowest address, after which it is named.
    pub gpu: VfioGpu,
    /// More GPUs in it; mostly none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more: Vec<VfioGpu>,
    /// Whether it can be had.
    pub binding: Binding,
    /// Whether a virtual machine can have it through iommufd: the kernel has `/dev/iommu`.
    pub iommufd: bool,
    /// What changes its kernel driver when it is taken for a virtual machine: the GPUs, and what comes with their cards.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub functions: Vec<Origin>,
}

impl Vfio {
    /// The name under which it is published.
    pub fn name(&self) -> DeviceName {
        DeviceName::of(self.gpu.pci, Part::Vfio)
    }

    /// All of its GPUs, by address.
    pub fn gpus(&self) -> impl Iterator<Item = &VfioGpu> {
        std::iter::once(&self.gpu).chain(&self.more)
    }

    /// Whether one of its GPUs sits at an address.
    pub fn has(&self, pci: PciAddress) -> bool {
        self.gpus().any(|gpu| gpu.pci == pci)
    }
}

/// What a claim has taken, or is about to take or to give back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Away {
    /// The group.
    pub group: IommuGroup,
    /// Of it.
    pub taken: Taken,
    /// Whether it is with its vfio driver for good, and not on the way there or back.
    pub is_settled: bool,
}

/// What is taken from the host's kernel drivers for a virtual machine, and given back to them after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Taken {
    /// The vfio driver that is to have it.
    pub by: String,
    /// All of the group that changes its driver: the GPUs first.
    pub functions: Vec<Origin>,
    /// The GPUs among them, as NVIDIA's driver told of them: it knows nothing of them meanwhile.
    pub gpus: Vec<Gpu>,
}

/// A PCI function, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Origin {
    /// Where it sits.
    pub pci: PciAddress,
    /// The kernel driver that had it; none if none did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_written_as_in_sysfs() {
        assert_eq!((VendorId::NVIDIA.to_string(), DeviceId(0x1b).to_string()), ("0x10de".into(), "0x001b".into()));
    }
}
