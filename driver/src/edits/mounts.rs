//! The driver's files as read-only mounts, in places that fit any image.
use std::path::Path;

use cdi_spec::Mount;

use super::{LIBRARY_DIR, OTHER_LIBRARY_DIR};
use crate::{
    discovery::installation::{Installation, Library},
    roots::Roots,
};

/// A file of the host's driver: nothing in a container may change it, or use it to gain rights.
const FILE: [&str; 5] = ["ro", "nosuid", "nodev", "rbind", "rprivate"];
/// What listens is written to.
const SOCKET: [&str; 5] = ["nosuid", "nodev", "noexec", "rbind", "rprivate"];

/// All mounts, in a fixed order.
///
/// With a hook each library is mounted once, and the hook gives it its names. Without one it is mounted under each of its
/// names in each directory in which some loader looks without an entry in its cache.
pub(super) fn of(roots: &Roots, installation: &Installation, has_hook: bool) -> Vec<Mount> {
    let mut mounts = Vec::new();
    for library in &installation.libraries {
        let places = if has_hook { once(library) } else { by_each_name(library) };
        mounts.extend(places.into_iter().map(|path| mount(roots, &library.file, path, &FILE)));
    }
    for binary in &installation.binaries {
        if let Some(name) = binary.file_name() {
            mounts.push(mount(roots, binary, format!("/usr/bin/{}", name.to_string_lossy()), &FILE));
        }
    }
    mounts.extend(installation.files.iter().map(|file| mount(roots, &file.file, file.path.clone(), &FILE)));
    mounts.extend(installation.sockets.iter().map(|socket| mount(roots, &socket.file, socket.path.clone(), &SOCKET)));
    mounts
}

fn once(library: &Library) -> Vec<String> {
    let name = library.file.file_name().map(|name| name.to_string_lossy());
    name.map(|name| format!("{}/{name}", dir(LIBRARY_DIR, library))).into_iter().collect()
}

fn by_each_name(library: &Library) -> Vec<String> {
    let in_dir = |dir: String| library.names.iter().map(move |name| format!("{dir}/{name}"));
    [LIBRARY_DIR, OTHER_LIBRARY_DIR].into_iter().flat_map(|base| in_dir(dir(base, library))).collect()
}

fn dir(base: &str, library: &Library) -> String {
    library.below.map_or_else(|| base.to_owned(), |below| format!("{base}/{below}"))
}

fn mount(roots: &Roots, file: &Path, container_path: String, options: &[&str]) -> Mount {
    Mount {
        host_path: roots.on_host(file).to_string_lossy().into_owned(),
        container_path,
        kind: Some("bind".to_owned()),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
    }
}
