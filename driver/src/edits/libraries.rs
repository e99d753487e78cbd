//! The driver's files as mounts that work in any image without a hook.
//!
//! The loader finds a library in its default directories without an entry in its cache, so each is mounted there under the
//! names by which programs load it. Images differ in which directory that is, hence both.
use cdi_spec::Mount;

use crate::{discovery::installation::Installation, roots::Roots};

/// The loader's default directory in Debian's family; also those of other distributions read the second one.
#[cfg(target_arch = "x86_64")]
const DIRS: [&str; 2] = ["/usr/lib/x86_64-linux-gnu", "/usr/lib64"];
#[cfg(target_arch = "aarch64")]
const DIRS: [&str; 2] = ["/usr/lib/aarch64-linux-gnu", "/usr/lib64"];

/// A file of the host's driver: nothing in a container may change it, or use it to gain rights.
const OPTIONS: [&str; 5] = ["ro", "nosuid", "nodev", "rbind", "rprivate"];

/// All mounts, in a fixed order.
pub(super) fn mounts(roots: &Roots, installation: &Installation) -> Vec<Mount> {
    let mut mounts = Vec::new();
    for library in &installation.libraries {
        for dir in DIRS {
            mounts.extend(library.names.iter().map(|name| mount(roots, &library.file, format!("{dir}/{name}"))));
        }
    }
    for binary in &installation.binaries {
        if let Some(name) = binary.file_name() {
            mounts.push(mount(roots, binary, format!("/usr/bin/{}", name.to_string_lossy())));
        }
    }
    mounts
}

fn mount(roots: &Roots, file: &std::path::Path, container_path: String) -> Mount {
    Mount {
        host_path: roots.on_host(file).to_string_lossy().into_owned(),
        container_path,
        options: OPTIONS.iter().map(|option| (*option).to_owned()).collect(),
    }
}
