//! Device nodes by the kernel's numbers, so that the host's /dev need not have them.
use std::{fs, io, path::PathBuf};

use aliquot_model::{DrmNode, Gpu};
use cdi_spec::{DeviceNode, NodeType};

use crate::roots::Roots;

/// Fixed by the kernel module (nv-chardev-numbers.h): GPUs from minor 0, and these at the end.
pub(crate) const NVIDIA: i64 = 195;
pub(crate) const MODESET: i64 = 254;
pub(crate) const CONTROL: i64 = 255;

/// The kernel's table of devices can't be read.
#[derive(Debug, thiserror::Error)]
#[error("the device numbers can't be read from {}", path.display())]
pub struct Error {
    path: PathBuf,
    source: io::Error,
}

/// The node of one GPU.
pub(super) fn gpu(roots: &Roots, minor: u32) -> DeviceNode {
    node(roots, &format!("nvidia{minor}"), NVIDIA, minor.into())
}

/// The nodes of a GPU for graphics and video.
pub(super) fn drm(roots: &Roots, gpu: &Gpu) -> Vec<DeviceNode> {
    let node = |drm: &DrmNode| node(roots, &format!("dri/{}", drm.name), drm.major.into(), drm.minor.into());
    gpu.drm.iter().map(node).collect()
}

/// The nodes that every user of a GPU needs.
///
/// The numbers of nvidia-uvm are given out when the module is loaded; without it there is no CUDA, but NVML works.
pub(super) fn common(roots: &Roots) -> Result<Vec<DeviceNode>, Error> {
    let path = roots.proc.join("devices");
    let table = fs::read_to_string(&path).map_err(|source| Error { path, source })?;
    let mut nodes = vec![node(roots, "nvidiactl", NVIDIA, CONTROL)];
    if roots.dev.join("nvidia-modeset").exists() {
        nodes.push(node(roots, "nvidia-modeset", NVIDIA, MODESET));
    }
    if let Some(uvm) = major(&table, "nvidia-uvm") {
        nodes.push(node(roots, "nvidia-uvm", uvm, 0));
        nodes.push(node(roots, "nvidia-uvm-tools", uvm, 1));
    }
    Ok(nodes)
}

fn node(roots: &Roots, name: &str, major: i64, minor: i64) -> DeviceNode {
    DeviceNode {
        path: format!("/dev/{name}"),
        host_path: Some(roots.dev.join(name).to_string_lossy().into_owned()),
        kind: Some(NodeType::Character),
        major: Some(major),
        minor: Some(minor),
        // As NVIDIA's driver makes them, and runtimes where nothing is said.
        file_mode: Some(0o666),
        // Making nodes is the runtime's work, not the container's.
        permissions: Some("rw".to_owned()),
    }
}

/// A driver's major number in the section of character devices of /proc/devices.
pub(crate) fn major(table: &str, name: &str) -> Option<i64> {
    let section = table.lines().skip_while(|line| *line != "Character devices:").skip(1);
    section.take_while(|line| !line.trim().is_empty()).find_map(|line| {
        let (number, driver) = line.trim().split_once(' ')?;
        (driver.trim() == name).then(|| number.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn majors_are_those_of_character_devices_only() {
        let table =
            "Character devices:\n  1 mem\n195 nvidia\n511 nvidia-uvm\n\nBlock devices:\n  8 sd\n512 nvidia-caps\n";
        assert_eq!(major(table, "nvidia-uvm"), Some(511));
        assert_eq!(major(table, "nvidia-caps"), None);
        assert_eq!(major(table, "nvidia-u"), None);
        assert_eq!(major("", "nvidia"), None);
    }
}
