//! What the kernel says of a PCI function's place.
use std::{fs, path::Path};

use aliquot_model::PciAddress;

/// Where a function hangs in the machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Place {
    /// The root complex, for example `pci0000:40` (attribute `resource.kubernetes.io/pcieRoot`, KEP-4381).
    pub(super) pcie_root: Option<String>,
    /// The NUMA node; the kernel writes -1 where the firmware names none.
    pub(super) numa_node: Option<u32>,
}

/// Reads `/sys/bus/pci/devices/<address>`, which is a link into the tree of root complexes.
pub(super) fn place(sys: &Path, address: PciAddress) -> Place {
    let link = sys.join("bus/pci/devices").join(address.to_string());
    let numa_node = fs::read_to_string(link.join("numa_node")).ok().and_then(|text| text.trim().parse().ok());
    let pcie_root = fs::canonicalize(&link).ok().and_then(|path| {
        path.components().find_map(|part| {
            let name = part.as_os_str().to_str()?;
            is_root(name).then(|| name.to_owned())
        })
    });
    Place { pcie_root, numa_node }
}

/// `pci<domain>:<bus>` in hexadecimal, as drivers/pci/probe.c names a host bridge's device.
fn is_root(name: &str) -> bool {
    let hex = |text: &str, least: usize| text.len() >= least && text.bytes().all(|b| b.is_ascii_hexdigit());
    name.strip_prefix("pci")
        .and_then(|rest| rest.split_once(':'))
        .is_some_and(|(domain, bus)| hex(domain, 4) && hex(bus, 2))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_root_complex_and_numa_node_are_read_through_the_link() {
        let sys = tempfile::tempdir().unwrap();
        let real = sys.path().join("devices/pci0000:40/0000:40:01.1/0000:41:00.0");
        fs::create_dir_all(&real).unwrap();
        fs::create_dir_all(sys.path().join("bus/pci/devices")).unwrap();
        fs::write(real.join("numa_node"), "1\n").unwrap();
        symlink(&real, sys.path().join("bus/pci/devices/0000:41:00.0")).unwrap();
        let place = place(sys.path(), "0000:41:00.0".parse().unwrap());
        assert_eq!(place, Place { pcie_root: Some("pci0000:40".into()), numa_node: Some(1) });
    }

    #[test]
    fn no_numa_node_is_none_and_a_missing_device_has_no_place() {
        let sys = tempfile::tempdir().unwrap();
        let real = sys.path().join("bus/pci/devices/0000:41:00.0");
        fs::create_dir_all(&real).unwrap();
        fs::write(real.join("numa_node"), "-1\n").unwrap();
        assert_eq!(place(sys.path(), "0000:41:00.0".parse().unwrap()), Place::default());
        assert_eq!(place(sys.path(), "0000:42:00.0".parse().unwrap()), Place::default());
    }
}
