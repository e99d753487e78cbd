//! The kernel's files that have a function change its driver: which there are, and where.
use std::path::{Component, Path, PathBuf};

use aliquot_model::PciAddress;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum KernelFile {
    /// A driver lets go of the function that is written to it.
    Unbind(String),
    /// It takes it.
    Bind(String),
    /// The kernel has the function that is written to it taken by whichever driver may have it.
    Probe,
    /// The only driver that may have the function.
    Override(PciAddress),
    /// Resets the function.
    Reset(PciAddress),
    /// Whether NVIDIA's driver lets nobody open the GPU (kernel-open/nvidia/nv-procfs.c).
    Lock(PciAddress),
}

impl KernelFile {
    /// Where it is.
    pub(super) fn path(&self, sys: &Path, proc: &Path) -> PathBuf {
        let bus = sys.join("bus/pci");
        let function = |pci: &PciAddress| bus.join("devices").join(pci.to_string());
        match self {
            Self::Unbind(driver) => bus.join("drivers").join(driver).join("unbind"),
            Self::Bind(driver) => bus.join("drivers").join(driver).join("bind"),
            Self::Probe => bus.join("drivers_probe"),
            Self::Override(pci) => function(pci).join("driver_override"),
            Self::Reset(pci) => function(pci).join("reset"),
            Self::Lock(pci) => proc.join("driver/nvidia/gpus").join(pci.to_string()).join("unbindLock"),
        }
    }

    /// Which one is at a path, if any.
    pub(super) fn at(path: &Path, sys: &Path, proc: &Path) -> Option<Self> {
        let (below, is_sys) = match path.strip_prefix(sys.join("bus/pci")) {
            Ok(below) => (below, true),
            Err(_) => (path.strip_prefix(proc.join("driver/nvidia/gpus")).ok()?, false),
        };
        let parts: Option<Vec<&str>> = below
            .components()
            .map(|part| match part {
                Component::Normal(name) => name.to_str(),
                _ => None,
            })
            .collect();
        match (is_sys, parts?.as_slice()) {
            (true, ["drivers", driver, "unbind"]) => Some(Self::Unbind((*driver).to_owned())),
            (true, ["drivers", driver, "bind"]) => Some(Self::Bind((*driver).to_owned())),
            (true, ["drivers_probe"]) => Some(Self::Probe),
            (true, ["devices", pci, "driver_override"]) => pci.parse().ok().map(Self::Override),
            (true, ["devices", pci, "reset"]) => pci.parse().ok().map(Self::Reset),
            (false, [pci, "unbindLock"]) => pci.parse().ok().map(Self::Lock),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &str) -> Option<KernelFile> {
        KernelFile::at(Path::new(path), Path::new("/sys"), Path::new("/proc"))
    }

    #[test]
    fn each_is_known_by_its_path() {
        let pci: PciAddress = "0000:41:00.0".parse().unwrap();
        for file in [
            KernelFile::Unbind("nvidia".into()),
            KernelFile::Bind("vfio-pci".into()),
            KernelFile::Probe,
            KernelFile::Override(pci),
            KernelFile::Reset(pci),
            KernelFile::Lock(pci),
        ] {
            let path = file.path(Path::new("/sys"), Path::new("/proc"));
            assert_eq!(at(path.to_str().unwrap()), Some(file));
        }
    }

    #[test]
    fn no_other_file_is_one_of_them() {
        for path in [
            "/sys/bus/pci/drivers/../../../../etc/bind",
            "/sys/bus/pci/drivers/a/b/bind",
            "/sys/bus/pci/drivers/nvidia/new_id",
            "/sys/bus/pci/devices/0000:41:00.0/config",
            "/sys/bus/pci/devices/x/driver_override",
            "/sys/bus/usb/drivers/hub/unbind",
            "/proc/driver/nvidia/gpus/0000:41:00.0/information",
            "/proc/sysrq-trigger",
            "/etc/passwd",
            "bind",
        ] {
            assert_eq!(at(path), None, "{path}");
        }
    }
}
