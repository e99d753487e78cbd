//! The PCI side of a simulated node: functions in sysfs with their drivers and IOMMU groups, and the nodes of VFIO.
use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use crate::node::Node;

/// Of miscellaneous devices.
const MISC: u32 = 10;
/// Those of IOMMU groups and of single devices, which the kernel gives out dynamically.
const VFIO: u32 = 510;
const CDEV: u32 = 509;

/// A PCI function.
#[derive(Debug, Clone, Copy)]
pub struct Function<'a> {
    /// Its address.
    pub pci: &'a str,
    /// Its class code, for example `0x030200`.
    pub class: &'a str,
    /// The kernel driver that has it; empty for none.
    pub driver: &'a str,
    /// Its IOMMU group.
    pub group: u32,
}

/// A policy by which every GPU may be taken from NVIDIA's driver.
pub const DYNAMIC: &str = "apiVersion: gpu.aliquot.dev/v1alpha1\nkind: Policy\nrules:\n- offer: [whole, shares, vfio]\n  \
    vfio: {binding: dynamic}\n";

impl<'a> Function<'a> {
    /// An H100.
    pub fn gpu(pci: &'a str, driver: &'a str, group: u32) -> Self {
        Self { pci, class: "0x030200", driver, group }
    }

    /// The audio function of a card.
    pub fn audio(pci: &'a str, driver: &'a str, group: u32) -> Self {
        Self { class: "0x040300", ..Self::gpu(pci, driver, group) }
    }
}

impl Node {
    /// Plugs a function of NVIDIA's in, or says more of one that is there.
    pub fn plug(&self, function: Function<'_>) -> io::Result<()> {
        let Function { pci, class, driver, group } = function;
        let link = self.function(pci);
        if !link.exists() {
            let below = Path::new("devices/pci0000:c0").join(pci);
            fs::create_dir_all(self.path("sys").join(&below))?;
            symlink(Path::new("../../..").join(&below), &link)?;
        }
        let region = "0x0000006000000000 0x0000007fffffffff 0x000000000014220c\n";
        for (name, text) in [("vendor", "0x10de"), ("device", "0x2330"), ("class", class), ("resource", region)] {
            fs::write(link.join(name), text)?;
        }
        let members = self.path("sys/kernel/iommu_groups").join(group.to_string()).join("devices");
        fs::create_dir_all(&members)?;
        symlink(Path::new("../../../../bus/pci/devices").join(pci), members.join(pci))?;
        symlink(Path::new("../../../kernel/iommu_groups").join(group.to_string()), link.join("iommu_group"))?;
        self.bind(pci, driver)
    }

    /// Takes a function out of the machine, without its nodes.
    pub fn unplug(&self, pci: &str) -> io::Result<()> {
        let link = self.function(pci);
        let group = fs::read_link(link.join("iommu_group"))?;
        let members = self.path("sys/kernel/iommu_groups").join(group.file_name().unwrap_or_default()).join("devices");
        fs::remove_file(members.join(pci))?;
        fs::remove_file(link)
    }

    /// Gives a function to another kernel driver, or to none, without its nodes.
    pub fn bind(&self, pci: &str, driver: &str) -> io::Result<()> {
        let link = self.function(pci).join("driver");
        match fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        if driver.is_empty() { Ok(()) } else { symlink(Path::new("../../../bus/pci/drivers").join(driver), link) }
    }

    /// Makes the node of an IOMMU group, as the kernel does when a vfio driver has all of it.
    pub fn open_group(&self, group: u32) -> io::Result<()> {
        let dir = self.path("dev/vfio");
        fs::create_dir_all(&dir)?;
        self.make_node("vfio/vfio", MISC, 196)?;
        self.make_node(&format!("vfio/{group}"), VFIO, group)
    }

    /// Takes it away again.
    pub fn close_group(&self, group: u32) -> io::Result<()> {
        fs::remove_file(self.path("dev/vfio").join(group.to_string()))
    }

    /// Makes the node of a function, as a kernel with iommufd does.
    pub fn open_device(&self, pci: &str, number: u32) -> io::Result<()> {
        let name = format!("vfio{number}");
        fs::create_dir_all(self.function(pci).join("vfio-dev").join(&name))?;
        let dir = self.path("dev/vfio/devices");
        fs::create_dir_all(&dir)?;
        self.make_node(&format!("vfio/devices/{name}"), CDEV, number)?;
        self.make_node("iommu", MISC, 127)
    }

    /// Takes NVIDIA's driver for user space away.
    pub fn uninstall(&self) -> io::Result<()> {
        fs::remove_dir_all(self.path("driver/usr/lib"))
    }

    /// The kernel driver that has a function.
    pub fn driver_of(&self, pci: &str) -> Option<String> {
        Some(fs::read_link(self.function(pci).join("driver")).ok()?.file_name()?.to_str()?.to_owned())
    }

    /// A function's directory in sysfs.
    pub(crate) fn function(&self, pci: &str) -> PathBuf {
        self.path("sys/bus/pci/devices").join(pci)
    }
}
