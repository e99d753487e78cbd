//! The NVIDIA driver's files below its root: what containers need to use a GPU from user space.
//!
//! The root may be the host's, a container's that installs the driver (`/run/nvidia/driver`), or one directory of an
//! image-based system; nothing says which, and it makes no difference: each file is searched in all places that are known.
mod files;
mod libraries;
mod root;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use files::Placed;
pub use libraries::Library;
pub(super) use root::real;

use crate::roots::Roots;

/// Directories below the root where the driver's programs are.
const BINARY_DIRS: [&str; 9] = [
    "usr/bin",
    "usr/sbin",
    "bin",
    "sbin",
    "usr/local/bin",
    "usr/local/nvidia/bin",
    "opt/bin",
    "home/kubernetes/bin/nvidia/bin",
    "run/current-system/sw/bin",
];

/// The driver's programs that are of use in a container.
const BINARIES: [&str; 7] = [
    "nvidia-smi",
    "nvidia-debugdump",
    "nvidia-persistenced",
    "nvidia-cuda-mps-control",
    "nvidia-cuda-mps-server",
    "nvidia-imex",
    "nvidia-imex-ctl",
];

/// What a driver's root holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Installation {
    /// `nvmlSystemGetDriverVersion`.
    pub version: String,
    /// Sorted by path.
    pub libraries: Vec<Library>,
    /// Real files, sorted.
    pub binaries: Vec<PathBuf>,
    /// Firmware and configurations.
    pub files: Vec<Placed>,
    /// Sockets of the driver's daemons.
    pub sockets: Vec<Placed>,
}

impl Installation {
    /// One of the driver's programs.
    pub fn program(&self, name: &str) -> Option<&Path> {
        self.binaries.iter().find(|path| path.file_name().is_some_and(|file| file == name)).map(PathBuf::as_path)
    }

    /// The file that programs load under a name.
    pub fn library(&self, name: &str) -> Option<&Path> {
        self.libraries.iter().find(|library| library.names.contains(name)).map(|library| library.file.as_path())
    }
}

/// Finds the files of one driver version below its root.
pub fn find(roots: &Roots, driver_version: &str) -> Installation {
    let root = roots.driver.as_path();
    let mut binaries: Vec<PathBuf> =
        BINARIES.iter().filter_map(|name| root::first_file(root, &BINARY_DIRS, name)).collect();
    binaries.sort();
    Installation {
        version: driver_version.to_owned(),
        libraries: libraries::find(root, driver_version),
        binaries,
        files: [files::firmware(roots, driver_version), files::configurations(root)].concat(),
        sockets: files::sockets(root),
    }
}
