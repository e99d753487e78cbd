//! Every directory that the driver reads or writes, in one value, so that each can be a fake tree.
use std::path::{Path, PathBuf};

use crate::args::Places;

/// Where things are, as this process sees them.
///
/// No other place in the driver names /dev, /proc, /sys or /run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// The NVIDIA driver's installation as this process sees it: libraries and binaries are below it.
    pub driver: PathBuf,
    /// The same installation as the container runtime sees it, from the host.
    pub driver_on_host: PathBuf,
    /// Device nodes.
    pub dev: PathBuf,
    /// sysfs.
    pub sys: PathBuf,
    /// procfs.
    pub proc: PathBuf,
    /// CDI specs that are made while the node runs.
    pub cdi: PathBuf,
    /// The kubelet's root directory; the same path on the host, as the kubelet opens our socket by it.
    pub kubelet: PathBuf,
    /// This driver's directory below it, likewise the same on the host.
    pub plugin: PathBuf,
    /// What lives until the next boot: the records of prepared claims.
    pub run: PathBuf,
}

impl Roots {
    /// From the command line, for one driver name.
    pub fn new(places: &Places, driver_name: &str) -> Self {
        Self {
            driver: places.driver_root.clone(),
            driver_on_host: places.driver_root_on_host.clone().unwrap_or_else(|| places.driver_root.clone()),
            dev: places.dev_root.clone(),
            sys: places.sys_root.clone(),
            proc: places.proc_root.clone(),
            cdi: places.cdi_root.clone(),
            kubelet: places.kubelet_root.clone(),
            plugin: places.kubelet_root.join("plugins").join(driver_name),
            run: places.run_root.join(driver_name),
        }
    }

    /// A path below the driver's installation as the host names it: on whole components, never by text.
    pub fn on_host(&self, path: &Path) -> PathBuf {
        match path.strip_prefix(&self.driver) {
            Ok(rest) => self.driver_on_host.join(rest),
            Err(_) => path.to_path_buf(),
        }
    }

    /// The same path inside a container: without the installation's root.
    pub fn in_container(&self, path: &Path) -> PathBuf {
        match path.strip_prefix(&self.driver) {
            Ok(rest) => Path::new("/").join(rest),
            Err(_) => path.to_path_buf(),
        }
    }

    /// The id of the running boot; what was prepared under another one has ended with it.
    pub fn boot_id(&self) -> std::io::Result<String> {
        let text = std::fs::read_to_string(self.proc.join("sys/kernel/random/boot_id"))?;
        Ok(text.trim().to_owned())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn roots(driver: &str, on_host: &str) -> Roots {
        Roots {
            driver: driver.into(),
            driver_on_host: on_host.into(),
            dev: "/dev".into(),
            sys: "/sys".into(),
            proc: "/proc".into(),
            cdi: "/var/run/cdi".into(),
            kubelet: "/var/lib/kubelet".into(),
            plugin: "/var/lib/kubelet/plugins/gpu.example.com".into(),
            run: "/run/aliquot/gpu.example.com".into(),
        }
    }

    #[test]
    fn a_library_below_a_mounted_root_gets_its_host_and_container_paths() {
        let roots = roots("/driver-root", "/run/nvidia/driver");
        let library = Path::new("/driver-root/usr/lib64/libcuda.so.570.1");
        assert_eq!(roots.on_host(library), Path::new("/run/nvidia/driver/usr/lib64/libcuda.so.570.1"));
        assert_eq!(roots.in_container(library), Path::new("/usr/lib64/libcuda.so.570.1"));
    }

    #[test]
    fn a_sibling_that_only_begins_like_the_root_is_left_alone() {
        let roots = roots("/driver", "/host");
        assert_eq!(roots.on_host(Path::new("/driver-other/x")), Path::new("/driver-other/x"));
    }
}
