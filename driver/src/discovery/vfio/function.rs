//! PCI functions as sysfs describes them (Documentation/ABI/testing/sysfs-bus-pci).
use std::{
    fs,
    path::{Path, PathBuf},
};

use aliquot_model::{DeviceId, IommuGroup, Memory, PciAddress, VendorId};

/// What a function is for: the first two bytes of its class code (PCI Code and ID Assignment Specification).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Class(pub(crate) u16);

impl Class {
    const VGA: Self = Self(0x0300);
    const DISPLAY_3D: Self = Self(0x0302);
    const AUDIO: Self = Self(0x0403);
    const PCI_BRIDGE: Self = Self(0x0604);
    /// How an `NVSwitch` describes itself.
    const OTHER_BRIDGE: Self = Self(0x0680);
    const USB: Self = Self(0x0c03);
    /// USB-C's UCSI.
    const OTHER_SERIAL_BUS: Self = Self(0x0c80);

    /// Whether it computes or draws.
    pub(crate) fn is_display(self) -> bool {
        matches!(self, Self::VGA | Self::DISPLAY_3D)
    }

    /// Whether it comes with a graphics card, in a function beside the GPU.
    pub(crate) fn goes_along(self) -> bool {
        matches!(self, Self::AUDIO | Self::USB | Self::OTHER_SERIAL_BUS)
    }

    pub(crate) fn is_pci_bridge(self) -> bool {
        self == Self::PCI_BRIDGE
    }

    pub(crate) fn is_switch(self) -> bool {
        self == Self::OTHER_BRIDGE
    }
}

/// One function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) pci: PciAddress,
    pub(crate) vendor: VendorId,
    pub(crate) device: DeviceId,
    pub(crate) class: Class,
    /// The kernel driver that has it.
    pub(crate) driver: Option<String>,
    pub(crate) group: Option<IommuGroup>,
    /// Whether it is a part of another one (SR-IOV).
    pub(crate) is_virtual: bool,
    /// How many such parts it has.
    pub(crate) parts: usize,
    /// `vfioN`.
    pub(crate) cdev: Option<String>,
    /// The size of its largest region.
    pub(crate) largest: Memory,
}

impl Function {
    /// Of an address; none where there is no such function.
    ///
    /// Nothing is read that waits for the function's lock in the kernel, as `sriov_numvfs` and `driver_override` do: where a
    /// driver hangs that is to let go of the function, this process would hang as well.
    pub(crate) fn read(sys: &Path, pci: PciAddress) -> Option<Self> {
        let dir = dir(sys, pci);
        let text = |name: &str| fs::read_to_string(dir.join(name)).ok().map(|text| text.trim().to_owned());
        let number = |name: &str| hex(&text(name)?);
        let link = |name: &str| Some(fs::read_link(dir.join(name)).ok()?.file_name()?.to_str()?.to_owned());
        Some(Self {
            pci,
            vendor: VendorId(u16::try_from(number("vendor")?).ok()?),
            device: DeviceId(u16::try_from(number("device")?).ok()?),
            class: Class(u16::try_from(number("class")? >> 8).ok()?),
            driver: link("driver"),
            group: link("iommu_group").and_then(|number| number.parse().ok()).map(IommuGroup),
            is_virtual: dir.join("physfn").exists(),
            parts: names(&dir).filter(|name| name.starts_with("virtfn")).count(),
            cdev: names(&dir.join("vfio-dev")).find(|name| name.starts_with("vfio")),
            largest: Memory::from_bytes(largest(&text("resource").unwrap_or_default())),
        })
    }

    /// Whether it can be given to a virtual machine by itself: it isn't a part, and a GPU of NVIDIA's.
    pub(crate) fn is_gpu(&self) -> bool {
        self.vendor == VendorId::NVIDIA && self.class.is_display() && !self.is_virtual
    }

    /// Whether a vfio driver has it: the plain one or a variant such as `nvgrace-gpu-vfio-pci`.
    pub(crate) fn is_vfio(&self) -> bool {
        self.driver.as_deref().is_some_and(is_vfio_driver)
    }
}

/// Whether a driver is one of VFIO's for PCI; by their names, in which `-` and `_` are the same.
pub(crate) fn is_vfio_driver(name: &str) -> bool {
    name.replace('_', "-").ends_with("vfio-pci")
}

/// Where sysfs has a function.
pub(crate) fn dir(sys: &Path, pci: PciAddress) -> PathBuf {
    sys.join("bus/pci/devices").join(pci.to_string())
}

/// The names in a directory, in no order; none where it can't be read.
pub(crate) fn names(dir: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

/// The addresses in a directory of functions, in order.
pub(crate) fn addresses(dir: &Path) -> Vec<PciAddress> {
    let mut all: Vec<PciAddress> = names(dir).filter_map(|name| name.parse().ok()).collect();
    all.sort();
    all
}

/// Whether NVIDIA made it; a machine has hundreds of functions, of which no more than this is read.
pub(crate) fn is_nvidias(sys: &Path, pci: PciAddress) -> bool {
    let vendor = fs::read_to_string(dir(sys, pci).join("vendor")).unwrap_or_default();
    hex(vendor.trim()) == Some(VendorId::NVIDIA.0.into())
}

fn hex(text: &str) -> Option<u32> {
    u32::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
}

/// Of `resource`, a line with first and last address and flags for each region.
fn largest(regions: &str) -> u64 {
    let size = |line: &str| {
        let mut numbers = line.split(' ').map(|text| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok());
        let (first, last) = (numbers.next()??, numbers.next()??);
        (last > first).then(|| last - first + 1)
    };
    regions.lines().filter_map(size).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_region_is_found_among_empty_ones() {
        let regions = "0x00000000a2000000 0x00000000a2ffffff 0x0000000000040200\n\
            0x0000006800000000 0x0000006fffffffff 0x000000000014220c\n\
            0x0000000000000000 0x0000000000000000 0x0000000000000000\n";
        assert_eq!(largest(regions), 32 << 30);
        assert_eq!((largest(""), largest("x y"), largest("0x1")), (0, 0, 0));
    }

    #[test]
    fn variants_are_drivers_of_vfio_too() {
        for name in ["vfio-pci", "nvgrace-gpu-vfio-pci", "nvgrace_gpu_vfio_pci"] {
            assert!(is_vfio_driver(name), "{name}");
        }
        for name in ["nvidia", "vfio", "pci-stub", "vfio-pci-x"] {
            assert!(!is_vfio_driver(name), "{name}");
        }
    }
}
