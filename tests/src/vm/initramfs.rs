//! What the machine starts from: one archive with this program, the driver, what both are linked with, and the kernel's modules.
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use super::{
    Error, io,
    machine::{MODULES, Machine, libraries},
};
use crate::node::Artifacts;

/// Where the programs are in it.
pub(super) const PROGRAMS: &str = "aliquot";
/// Where the modules are.
pub(super) const MODULE_DIR: &str = "modules";
/// The first program that the kernel starts.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
mkdir -p /dev /proc /sys /tmp /run
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs tmpfs /tmp
ip link set lo up
stty -F /dev/ttyS1 raw
/aliquot/xtask passthrough-guest > /dev/ttyS1 2>&1
poweroff -f
";

/// Makes it in `dir`.
pub(super) fn make(machine: &Machine, artifacts: &Artifacts, nvidia: &Path, dir: &Path) -> Result<PathBuf, Error> {
    let root = dir.join("root");
    let (programs, modules) = (root.join(PROGRAMS), root.join(MODULE_DIR));
    let certificates = root.join("etc/ssl/certs");
    for dir in [&root.join("bin"), &programs, &modules, &certificates] {
        fs::create_dir_all(dir).map_err(io(dir))?;
    }
    let authorities = certificates.join("ca-certificates.crt");
    fs::write(&authorities, machine.authorities()?).map_err(io(&authorities))?;
    let copy = |from: &Path, to: &Path| fs::copy(from, to).map(drop).map_err(io(from));
    copy(&machine.busybox(), &root.join("bin/busybox"))?;
    copy(nvidia, &modules.join("nvidia.ko"))?;
    for module in MODULES {
        let from = machine.module(module);
        copy(&from, &modules.join(from.file_name().unwrap_or_default()))?;
    }
    let own = std::env::current_exe().map_err(io(Path::new("xtask")))?;
    let mut needed = BTreeSet::new();
    for file in artifacts.of_a_node().iter().chain([&own]) {
        needed.extend(libraries(file)?);
        let name = if *file == own { "xtask".as_ref() } else { file.file_name().unwrap_or_default() };
        machine.strip(file, &programs.join(name))?;
    }
    for library in needed {
        let place = root.join(library.strip_prefix("/").unwrap_or(&library));
        if let Some(dir) = place.parent() {
            fs::create_dir_all(dir).map_err(io(dir))?;
        }
        copy(&library, &place)?;
    }
    let init = root.join("init");
    fs::write(&init, INIT).map_err(io(&init))?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).map_err(io(&init))?;
    let archive = dir.join("initramfs");
    machine.pack(&root, &archive)?;
    Ok(archive)
}
