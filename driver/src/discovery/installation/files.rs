//! What comes with the driver beside libraries and programs: firmware, the configuration of loaders, sockets of daemons.
use std::{
    fs,
    path::{Path, PathBuf},
};

use super::root;
use crate::roots::Roots;

/// A file and where it belongs in a container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Placed {
    /// The real file.
    pub file: PathBuf,
    /// In the container.
    pub path: String,
}

/// Where vendors' configurations are, in their order of precedence, and where loaders in a container look for them.
const SHARED: (&[&str], &str) = (&["etc", "usr/local/share", "usr/share"], "/usr/share");
const SHARED_FILES: [&str; 7] = [
    "glvnd/egl_vendor.d/10_nvidia.json",
    "egl/egl_external_platform.d/15_nvidia_gbm.json",
    "egl/egl_external_platform.d/10_nvidia_wayland.json",
    "egl/egl_external_platform.d/09_nvidia_wayland2.json",
    "egl/egl_external_platform.d/20_nvidia_xcb.json",
    "egl/egl_external_platform.d/20_nvidia_xlib.json",
    "nvidia/nvoptix.bin",
];
/// The same for those that are the system's; GKE has Vulkan's at the root.
const SYSTEM: (&[&str], &str) = (&["etc", "usr/local/share", "usr/share", "", "home/kubernetes/bin/nvidia"], "/etc");
const SYSTEM_FILES: [&str; 5] = [
    "OpenCL/vendors/nvidia.icd",
    "vulkan/icd.d/nvidia_icd.json",
    "vulkan/icd.d/nvidia_layers.json",
    "vulkan/implicit_layer.d/nvidia_layers.json",
    #[cfg(target_arch = "x86_64")]
    "vulkan/icd.d/nvidia_icd.x86_64.json",
    #[cfg(target_arch = "aarch64")]
    "vulkan/icd.d/nvidia_icd.aarch64.json",
];

/// Where daemons of the driver listen; `/var/run` is `/run` wherever they run.
const SOCKETS: [&str; 2] = ["run/nvidia-persistenced/socket", "run/nvidia-fabricmanager/socket"];

/// The configuration of the loaders for graphics and compute.
pub(super) fn configurations(at: &Path) -> Vec<Placed> {
    let of = |(dirs, to): (&[&str], &str), names: &[&str]| -> Vec<Placed> {
        let placed =
            |name: &&str| Some(Placed { file: root::first_file(at, dirs, name)?, path: format!("{to}/{name}") });
        names.iter().filter_map(placed).collect()
    };
    [of(SHARED, &SHARED_FILES), of(SYSTEM, &SYSTEM_FILES)].concat()
}

/// The firmware of the GPU's system processor, from the first of the directories in which the kernel looks
/// (Documentation/driver-api/firmware/fw_search_path.rst) that has it.
pub(super) fn firmware(roots: &Roots, driver_version: &str) -> Vec<Placed> {
    let text = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
    let own = text(roots.sys.join("module/firmware_class/parameters/path"));
    let release = text(roots.proc.join("sys/kernel/osrelease"));
    let release = release.trim();
    // The kernel's path is the host's, of which the driver's root may be a part (/run/nvidia/driver/lib/firmware).
    let own = own.trim().trim_start_matches('/').to_owned();
    let dirs = [
        own.clone(),
        own.find("lib/firmware").map_or_else(String::new, |at| own[at..].to_owned()),
        format!("lib/firmware/updates/{release}"),
        "lib/firmware/updates".to_owned(),
        format!("lib/firmware/{release}"),
        "lib/firmware".to_owned(),
    ];
    for dir in dirs.iter().filter(|dir| !dir.is_empty()) {
        let Some(found) = root::real(&roots.driver, &Path::new(dir).join("nvidia").join(driver_version)) else {
            continue;
        };
        let names = root::names(&found).into_iter();
        let is_gsp =
            |name: &String| name.starts_with("gsp") && Path::new(name).extension().is_some_and(|end| end == "bin");
        let placed = |name: String| Placed {
            path: format!("/lib/firmware/nvidia/{driver_version}/{name}"),
            file: found.join(name),
        };
        let all: Vec<Placed> = names.filter(is_gsp).map(placed).collect();
        if !all.is_empty() {
            return all;
        }
    }
    Vec::new()
}

/// Sockets of the driver's daemons.
pub(super) fn sockets(at: &Path) -> Vec<Placed> {
    let placed = |path: &&str| {
        let file = root::real(at, Path::new(path))?;
        let is_socket =
            fs::symlink_metadata(&file).is_ok_and(|meta| std::os::unix::fs::FileTypeExt::is_socket(&meta.file_type()));
        is_socket.then(|| Placed { file, path: format!("/{path}") })
    };
    SOCKETS.iter().filter_map(placed).collect()
}
