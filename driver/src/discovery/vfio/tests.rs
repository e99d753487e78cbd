//! Whole nodes in a fake sysfs: what is found of them for virtual machines.
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use aliquot_model::{Memory, Origin};

use super::*;
use crate::roots::tests::roots;

/// A node's sysfs, /dev and driver root.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(tree.sys().join("kernel/iommu_groups")).unwrap();
        fs::create_dir_all(tree.sys().join("bus/pci/devices")).unwrap();
        fs::create_dir_all(tree.0.path().join("dev/vfio")).unwrap();
        tree
    }

    fn sys(&self) -> PathBuf {
        self.0.path().join("sys")
    }

    /// A function of NVIDIA's, its class, driver and group.
    fn add(&self, pci: &str, class: &str, driver: &str, group: u32) -> PathBuf {
        let real = self.sys().join("devices/pci0000:40").join(pci);
        fs::create_dir_all(&real).unwrap();
        let regions = "0x0000000000000000 0x0000000fffffffff 0x000000000014220c\n";
        for (name, text) in [("vendor", "0x10de\n"), ("device", "0x2330\n"), ("class", class), ("numa_node", "1\n")] {
            fs::write(real.join(name), text).unwrap();
        }
        fs::write(real.join("resource"), regions).unwrap();
        if !driver.is_empty() {
            symlink(Path::new("../../../bus/pci/drivers").join(driver), real.join("driver")).unwrap();
        }
        let members = self.sys().join("kernel/iommu_groups").join(group.to_string()).join("devices");
        fs::create_dir_all(&members).unwrap();
        symlink(members.parent().unwrap(), real.join("iommu_group")).unwrap();
        symlink(&real, members.join(pci)).unwrap();
        fs::write(self.0.path().join("dev/vfio").join(group.to_string()), "").unwrap();
        symlink(&real, self.sys().join("bus/pci/devices").join(pci)).unwrap();
        real
    }

    fn find(&self) -> Vec<Vfio> {
        let path = |name: &str| self.0.path().join(name);
        find(&Roots { sys: self.sys(), dev: path("dev"), ..roots(path("root").to_str().unwrap(), "/") })
    }
}

const GPU: &str = "0x030200\n";

#[test]
fn a_gpu_and_its_audio_function_are_one_thing_with_the_gpus_name_and_place() {
    let tree = Tree::new();
    let gpu = tree.add("0000:41:00.0", "0x030000\n", "vfio-pci", 12);
    tree.add("0000:41:00.1", "0x040300\n", "vfio-pci", 12);
    fs::create_dir_all(gpu.join("vfio-dev/vfio3")).unwrap();
    fs::write(tree.0.path().join("dev/iommu"), "").unwrap();
    fs::create_dir_all(tree.0.path().join("root/usr/share/misc")).unwrap();
    let names = "10de  NVIDIA Corporation\n\t2330  GH100 [H100 SXM5 80GB]\n";
    fs::write(tree.0.path().join("root/usr/share/misc/pci.ids"), names).unwrap();
    let [found] = &tree.find()[..] else { panic!("{:?}", tree.find()) };
    assert_eq!(
        (found.name().as_str(), found.group, &found.binding),
        ("gpu-0000-41-00-vfio", IommuGroup(12), &Binding::Bound)
    );
    let VfioGpu { product_name, cdev, pcie_root, numa_node, addressable, .. } = &found.gpu;
    assert_eq!((product_name.as_str(), cdev.as_deref()), ("GH100 [H100 SXM5 80GB]", Some("vfio3")));
    assert_eq!(
        (pcie_root.as_deref(), *numa_node, *addressable),
        (Some("pci0000:40"), Some(1), Memory::from_bytes(64 << 30))
    );
    assert!(found.iommufd && found.more.is_empty());
}

#[test]
fn two_gpus_of_a_group_are_one_thing_and_without_a_table_they_have_their_ids_for_a_name() {
    let tree = Tree::new();
    tree.add("0000:42:00.0", GPU, "vfio-pci", 7);
    tree.add("0000:41:00.0", GPU, "vfio-pci", 7);
    let [found] = &tree.find()[..] else { panic!("{:?}", tree.find()) };
    let places: Vec<String> = found.gpus().map(|gpu| gpu.pci.to_string()).collect();
    assert_eq!(
        (places, found.gpu.product_name.as_str()),
        (vec!["0000:41:00.0".into(), "0000:42:00.0".into()], "0x10de:0x2330")
    );
}

#[test]
fn each_group_is_judged_by_itself_and_those_without_a_gpu_are_none() {
    let tree = Tree::new();
    tree.add("0000:41:00.0", GPU, "nvidia", 1);
    tree.add("0000:42:00.0", GPU, "vfio-pci", 2);
    tree.add("0000:43:00.0", "0x068000\n", "vfio-pci", 3);
    tree.add("0000:44:00.0", GPU, "vfio-pci", 4);
    tree.add("0000:45:00.0", "0x010802\n", "nvme", 4);
    let found = tree.find();
    let bindings: Vec<&Binding> = found.iter().map(|vfio| &vfio.binding).collect();
    let [Binding::Switchable, Binding::Bound, Binding::Unusable(reason)] = &bindings[..] else {
        panic!("{bindings:?}")
    };
    assert!(reason.contains("0000:45:00.0 with driver nvme"), "{reason}");
    assert_eq!(found[0].functions, [Origin { pci: "0000:41:00.0".parse().unwrap(), driver: Some("nvidia".into()) }]);
    assert!(!is_all(&found, &[]) && is_all(&found[1..], &[]) && !is_all(&[], &[]));
}

#[test]
fn a_group_without_a_node_can_be_had_only_by_those_of_its_gpus() {
    let tree = Tree::new();
    let gpu = tree.add("0000:41:00.0", GPU, "vfio-pci", 1);
    fs::remove_file(tree.0.path().join("dev/vfio/1")).unwrap();
    assert!(matches!(&tree.find()[0].binding, Binding::Unusable(reason) if reason.contains("dev/vfio/1,")));
    fs::create_dir_all(gpu.join("vfio-dev/vfio3")).unwrap();
    fs::create_dir_all(tree.0.path().join("dev/vfio/devices")).unwrap();
    fs::write(tree.0.path().join("dev/vfio/devices/vfio3"), "").unwrap();
    assert_eq!(tree.find()[0].binding, Binding::Bound);
}

#[test]
fn without_an_iommu_there_is_nothing() {
    let tree = Tree::new();
    tree.add("0000:41:00.0", GPU, "vfio-pci", 1);
    fs::remove_dir_all(tree.sys().join("kernel/iommu_groups")).unwrap();
    assert!(tree.find().is_empty());
}
