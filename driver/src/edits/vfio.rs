//! What a virtual machine's monitor needs of the host: nodes of VFIO, and nothing of NVIDIA's driver.
//!
//! The nodes of a device are edits of the device and not of the spec: Kata's runtime-rs reads only those. Neither hooks nor
//! mounts: there is no container of the host's for them.
use std::path::PathBuf;

use aliquot_model::PciAddress;
use aliquot_params::{Iommu, IommuBackend};
use cdi_spec::{ContainerEdits, DeviceNode};

use crate::{claim::Passed, discovery::vfio::function::Function, roots::Roots};

/// What a virtual machine is given isn't there.
#[derive(Debug, thiserror::Error)]
#[error(
    "there is no {} for the GPU at {gpu}: is it still bound to vfio-pci, and is the kernel's module vfio loaded? See \
     lspci -nnk -s {gpu} on the node", node.display()
)]
pub struct Error {
    node: PathBuf,
    gpu: PciAddress,
}

/// The nodes through which the GPUs are used.
pub(super) fn of(roots: &Roots, passed: &Passed) -> Result<ContainerEdits, Error> {
    let names = by_device(roots, passed).unwrap_or_else(|| vec![format!("vfio/{}", passed.group)]);
    if let Some((name, gpu)) = names.iter().zip(&passed.gpus).find(|(name, _)| !roots.dev.join(name).exists()) {
        return Err(Error { node: roots.dev.join(name), gpu: *gpu });
    }
    Ok(ContainerEdits {
        // CUDA base images carry "all", and a legacy NVIDIA runtime on the node would inject every GPU for it.
        env: vec!["NVIDIA_VISIBLE_DEVICES=void".to_owned()],
        device_nodes: names.iter().map(|name| node(roots, name)).collect(),
        ..ContainerEdits::default()
    })
}

/// The nodes of the interfaces themselves, for those who ask for them.
pub(super) fn interfaces<'a>(roots: &Roots, passed: impl Iterator<Item = &'a Passed>) -> ContainerEdits {
    let mut names: Vec<&str> = passed
        .filter(|passed| passed.iommu.api_device)
        .map(|passed| if by_device(roots, passed).is_some() { "iommu" } else { "vfio/vfio" })
        .collect();
    names.sort_unstable();
    names.dedup();
    ContainerEdits {
        device_nodes: names.into_iter().map(|name| node(roots, name)).collect(),
        ..ContainerEdits::default()
    }
}

/// A node for each GPU; none where it is not to be had, or not wanted.
fn by_device(roots: &Roots, passed: &Passed) -> Option<Vec<String>> {
    let Iommu { backend, .. } = passed.iommu;
    if backend != IommuBackend::PreferIommuFD || !roots.dev.join("iommu").exists() {
        return None;
    }
    let name = |pci: &PciAddress| Some(format!("vfio/devices/{}", Function::read(&roots.sys, *pci)?.cdev?));
    passed.gpus.iter().map(name).collect()
}

/// Its numbers are the kernel's choice at each boot, and the runtime reads them from the host's node.
fn node(roots: &Roots, name: &str) -> DeviceNode {
    DeviceNode {
        path: format!("/dev/{name}"),
        host_path: Some(roots.dev.join(name).to_string_lossy().into_owned()),
        // The monitor need not be root; who may have the node is decided by who has the claim.
        file_mode: Some(0o666),
        permissions: Some("rw".to_owned()),
        ..DeviceNode::default()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use aliquot_model::IommuGroup;

    use super::*;
    use crate::roots::tests::roots;

    fn tree(nodes: &[&str]) -> (tempfile::TempDir, Roots) {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots { dev: dir.path().join("dev"), sys: dir.path().join("sys"), ..roots("/", "/") };
        for name in nodes {
            fs::create_dir_all(roots.dev.join(name).parent().unwrap()).unwrap();
            fs::write(roots.dev.join(name), "").unwrap();
        }
        let gpu = roots.sys.join("bus/pci/devices/0000:41:00.0");
        fs::create_dir_all(gpu.join("vfio-dev/vfio3")).unwrap();
        for (name, text) in [("vendor", "0x10de"), ("device", "0x2330"), ("class", "0x030200")] {
            fs::write(gpu.join(name), text).unwrap();
        }
        (dir, roots)
    }

    fn passed(backend: IommuBackend) -> Passed {
        let gpus = vec!["0000:41:00.0".parse().unwrap()];
        Passed { group: IommuGroup(12), gpus, iommu: Iommu { backend, api_device: true }, taken: None }
    }

    fn paths(edits: ContainerEdits) -> Vec<String> {
        edits.device_nodes.into_iter().map(|node| node.path).collect()
    }

    #[test]
    fn a_group_is_one_node_and_the_interface_another_of_the_spec() {
        let (_dir, roots) = tree(&["vfio/12", "vfio/vfio", "vfio/devices/vfio3", "iommu"]);
        let legacy = passed(IommuBackend::LegacyOnly);
        assert_eq!(paths(of(&roots, &legacy).unwrap()), ["/dev/vfio/12"]);
        assert_eq!(paths(interfaces(&roots, [&legacy, &legacy].into_iter())), ["/dev/vfio/vfio"]);
        let quiet = Passed { iommu: Iommu { api_device: false, ..legacy.iommu }, ..legacy };
        assert!(interfaces(&roots, [&quiet].into_iter()).is_empty());
    }

    #[test]
    fn iommufd_is_taken_where_it_is_preferred_and_there() {
        let wish = passed(IommuBackend::PreferIommuFD);
        let (_dir, roots) = tree(&["vfio/12", "vfio/vfio", "vfio/devices/vfio3", "iommu"]);
        assert_eq!(paths(of(&roots, &wish).unwrap()), ["/dev/vfio/devices/vfio3"]);
        assert_eq!(paths(interfaces(&roots, [&wish].into_iter())), ["/dev/iommu"]);
        let (_dir, roots) = tree(&["vfio/12", "vfio/vfio"]);
        assert_eq!(paths(of(&roots, &wish).unwrap()), ["/dev/vfio/12"]);
    }

    #[test]
    fn a_node_that_is_gone_is_named_with_what_to_look_at() {
        let (_dir, roots) = tree(&["vfio/13"]);
        let told = of(&roots, &passed(IommuBackend::LegacyOnly)).unwrap_err().to_string();
        assert!(told.contains("dev/vfio/12 for the GPU at 0000:41:00.0") && told.contains("lspci"), "{told}");
    }
}
