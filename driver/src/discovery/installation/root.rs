//! Paths below a driver's root, which may be the root of another system: its absolute links lead to its own files.
use std::{
    collections::BTreeSet,
    fs,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};

/// The real path of a file or directory below `root`; none where there is none.
///
/// The kernel resolves it (`openat2(2)`, `RESOLVE_IN_ROOT`), and says by the descriptor what it found.
pub(in crate::discovery) fn real(root: &Path, below: &Path) -> Option<PathBuf> {
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, root, directory, Mode::empty()).ok()?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found = openat2(&root, below, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve).ok()?;
    fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd())).ok()
}

/// The first of some directories that holds a file of this name.
pub(super) fn first_file(root: &Path, dirs: &[&str], name: &str) -> Option<PathBuf> {
    dirs.iter().find_map(|dir| real(root, &Path::new(dir).join(name)).filter(|path| path.is_file()))
}

/// The names in a directory, sorted; none where it can't be read.
pub(super) fn names(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn absolute_links_of_the_root_lead_to_its_own_files() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap().join("root");
        fs::create_dir_all(root.join("nix/store/x/lib")).unwrap();
        fs::create_dir_all(root.join("run")).unwrap();
        fs::write(root.join("nix/store/x/lib/libcuda.so.1"), "").unwrap();
        symlink("/nix/store/x", root.join("run/opengl-driver")).unwrap();
        let found = real(&root, Path::new("run/opengl-driver/lib/libcuda.so.1"));
        assert_eq!(found, Some(root.join("nix/store/x/lib/libcuda.so.1")));
        symlink("../../../../../../etc/passwd", root.join("run/up")).unwrap();
        assert_eq!(real(&root, Path::new("run/up")), None);
    }
}
