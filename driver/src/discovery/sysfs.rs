//! What the kernel says of a PCI function's place.
use std::{fs, path::Path};

use aliquot_model::{DrmNode, PciAddress};

/// Where a function hangs in the machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Place {
    /// The root complex, for example `pci0000:40` (attribute `resource.kubernetes.io/pcieRoot`, KEP-4381).
    pub(super) pcie_root: Option<String>,
    /// The NUMA node; the kernel writes -1 where the firmware names none.
    pub(super) numa_node: Option<u32>,
    /// Its nodes below /dev/dri, sorted by name.
    pub(super) drm: Vec<DrmNode>,
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
    Place { pcie_root, numa_node, drm: drm(&link.join("drm")) }
}

/// `card0` and `renderD128` below the function's `drm`, with their numbers from `dev`.
fn drm(dir: &Path) -> Vec<DrmNode> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut nodes: Vec<DrmNode> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let is_node = ["card", "renderD"].iter().any(|kind| {
                name.strip_prefix(kind)
                    .is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
            });
            let numbers = fs::read_to_string(entry.path().join("dev")).ok().filter(|_| is_node)?;
            let (major, minor) = numbers.trim().split_once(':')?;
            Some(DrmNode { name, major: major.parse().ok()?, minor: minor.parse().ok()? })
        })
        .collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    nodes
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
        assert_eq!(place, Place { pcie_root: Some("pci0000:40".into()), numa_node: Some(1), drm: vec![] });
    }

    #[test]
    fn the_nodes_for_graphics_have_their_numbers_and_connectors_are_none() {
        let sys = tempfile::tempdir().unwrap();
        let drm = sys.path().join("bus/pci/devices/0000:41:00.0/drm");
        for (name, numbers) in
            [("renderD129", "226:129\n"), ("card1", "226:1\n"), ("card1-DP-1", "226:7\n"), ("card", "1:1")]
        {
            fs::create_dir_all(drm.join(name)).unwrap();
            fs::write(drm.join(name).join("dev"), numbers).unwrap();
        }
        fs::create_dir_all(drm.join("card2")).unwrap();
        let nodes = place(sys.path(), "0000:41:00.0".parse().unwrap()).drm;
        let node = |name: &str, minor| DrmNode { name: name.into(), major: 226, minor };
        assert_eq!(nodes, [node("card1", 1), node("renderD129", 129)]);
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
