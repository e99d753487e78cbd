//! Where the hook is also installed so that every container's runtime can start it.
//!
//! A runtime runs `createContainer` hooks in the container's namespaces. With a user namespace (`hostUsers: false`, KEP-127)
//! root is some user without rights on the host then, and the kubelet's directory (mode 0750) is closed to it. So the
//! directory must be open to all from the root on, and for the hook's sake nobody but root may change anything on the way.
use std::{
    fs::{DirBuilder, Metadata, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use owned_dir::Dir;
use rustix::fs::{StatVfsMountFlags, statvfs};

const FOR_ALL: u32 = 0o755;
const STICKY: u32 = 0o1000;

/// Why not every runtime could start a hook there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unfit {
    /// Some users would be root.
    #[error("{} belongs to user {owner} with mode {mode:o}, and only root may be able to change it", path.display())]
    Writable {
        /// The directory or one above it.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// Not for user namespaces.
    #[error("{} has mode {mode:o}, and not all users may pass it", path.display())]
    Closed {
        /// The directory or one above it.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Some distributions hold programs off a part of `/var`, and others off `/run`.
    #[error("{} is on a file system from which no program can be started (noexec)", path.display())]
    NoExec {
        /// The directory.
        path: PathBuf,
    },
    /// The host has no such directory.
    #[error("{} is in this driver's own container: mount the host's there, a hostPath of type DirectoryOrCreate", path.display())]
    InImage {
        /// The directory.
        path: PathBuf,
    },
    /// It can't be made or looked at.
    #[error("{}: {source}", path.display())]
    Io {
        /// The directory or one above it.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It can't be used.
    #[error(transparent)]
    Dir(#[from] owned_dir::Error),
}

/// The directory, made where it is missing, by its path without links: what is written into specs is what was judged, and
/// who owns a link can't have it lead elsewhere later. `in_pod`: this process has an image's root and not the host's.
pub(super) fn open(path: &Path, in_pod: bool) -> Result<Dir, Unfit> {
    let path = without_links(path, in_pod)?;
    for at in way(&path) {
        let meta = match there(at)? {
            Some(meta) => meta,
            None => make(at).and_then(|()| at.symlink_metadata()).map_err(failed(at))?,
        };
        judge_at(at, &meta)?;
    }
    let dir = Dir::open(&path)?;
    executable(&path)?;
    Ok(dir)
}

/// The same without making anything: where it would be, if it could be as things are.
pub(crate) fn look(path: &Path, in_pod: bool) -> Result<PathBuf, Unfit> {
    let path = without_links(path, in_pod)?;
    let mut nearest = Path::new("/");
    for at in way(&path) {
        let Some(meta) = there(at)? else { break };
        judge_at(at, &meta)?;
        nearest = at;
    }
    executable(nearest)?;
    Ok(path)
}

/// The path to which the links in it lead; what is missing of it has none.
fn without_links(path: &Path, in_pod: bool) -> Result<PathBuf, Unfit> {
    if in_pod && is_on_root(path)? {
        return Err(Unfit::InImage { path: path.to_owned() });
    }
    for nearest in path.ancestors() {
        match nearest.canonicalize() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(nearest)(error)),
            Ok(found) => {
                let missing = path.strip_prefix(nearest).unwrap_or(Path::new(""));
                return Ok(found.components().chain(missing.components()).collect());
            }
        }
    }
    Err(failed(path)(io::ErrorKind::NotFound.into()))
}

/// Every directory from the root on.
fn way(path: &Path) -> impl Iterator<Item = &Path> {
    let mut all: Vec<&Path> = path.ancestors().collect();
    all.reverse();
    all.into_iter()
}

/// Of what is at a path itself, be it a link.
fn there(path: &Path) -> Result<Option<Metadata>, Unfit> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some).map_err(failed(path)),
    }
}

fn judge_at(path: &Path, meta: &Metadata) -> Result<(), Unfit> {
    if !meta.is_dir() {
        // Also a link to nowhere, or one that has come meanwhile.
        return Err(failed(path)(io::ErrorKind::NotADirectory.into()));
    }
    judge(path, meta.uid(), meta.mode() & 0o7777)
}

fn executable(path: &Path) -> Result<(), Unfit> {
    let flags = statvfs(path).map_err(|errno| failed(path)(errno.into()))?.f_flag;
    if flags.contains(StatVfsMountFlags::NOEXEC) {
        return Err(Unfit::NoExec { path: path.to_owned() });
    }
    Ok(())
}

/// Open to all, whatever the umask.
fn make(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(FOR_ALL).create(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(FOR_ALL))
}

fn judge(path: &Path, owner: u32, mode: u32) -> Result<(), Unfit> {
    let path = || path.to_owned();
    // In a sticky one, such as /tmp, nobody can replace what is root's.
    if owner != 0 || (mode & 0o022 != 0 && mode & STICKY == 0) {
        return Err(Unfit::Writable { path: path(), owner, mode });
    }
    if mode & 0o001 == 0 {
        return Err(Unfit::Closed { path: path(), mode });
    }
    Ok(())
}

/// Whether the directory, or what there is above it, is on the file system of this process's root.
fn is_on_root(path: &Path) -> Result<bool, Unfit> {
    let root = Path::new("/").metadata().map_err(failed(path))?;
    let nearest = path.ancestors().find_map(|above| above.metadata().ok());
    Ok(nearest.is_none_or(|there| there.dev() == root.dev()))
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> Unfit {
    let path = path.to_owned();
    move |source| Unfit::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(owner: u32, mode: u32) -> &'static str {
        match judge(Path::new("/x"), owner, mode) {
            Ok(()) => "fit",
            Err(Unfit::Writable { .. }) => "writable",
            Err(Unfit::Closed { .. }) => "closed",
            Err(_) => "other",
        }
    }

    #[test]
    fn only_what_is_roots_alone_and_open_to_all_is_fit() {
        assert_eq!(verdict(0, 0o755), "fit");
        assert_eq!(verdict(0, 0o711), "fit");
        assert_eq!(verdict(0, 0o1777), "fit");
        assert_eq!(verdict(1000, 0o755), "writable");
        assert_eq!(verdict(0, 0o775), "writable");
        assert_eq!(verdict(0, 0o757), "writable");
        assert_eq!(verdict(0, 0o750), "closed");
    }

    #[test]
    fn in_a_pod_the_images_own_directories_are_not_taken_for_the_hosts() {
        let error = open(Path::new("/aliquot-is-not-here/x"), true).unwrap_err();
        assert!(matches!(error, Unfit::InImage { .. }) && !Path::new("/aliquot-is-not-here").exists());
    }

    #[test]
    fn a_link_is_replaced_by_where_it_leads_and_can_be_swapped_without_harm() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let shared = tempfile::tempdir().unwrap();
        std::fs::set_permissions(shared.path(), Permissions::from_mode(0o1777)).unwrap();
        let (roots, link) = (shared.path().join("roots"), shared.path().join("link"));
        make(&roots).unwrap();
        std::os::unix::fs::symlink(&roots, &link).unwrap();
        std::os::unix::fs::lchown(&link, Some(1000), Some(1000)).unwrap();
        let of_root = roots.canonicalize().unwrap().join("d");
        assert_eq!(look(&link.join("d"), false).unwrap(), of_root);
        assert!(!of_root.exists(), "it is only looked at");
        assert_eq!(open(&link.join("d"), false).unwrap().path(), of_root);
        // As its owner would.
        let others = shared.path().join("others");
        make(&others).unwrap();
        std::os::unix::fs::chown(&others, Some(1000), None).unwrap();
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(&others, &link).unwrap();
        for refused in [open(&link, false).err(), look(&link.join("d"), false).err()] {
            assert!(matches!(refused, Some(Unfit::Writable { owner: 1000, .. })), "{refused:?}");
        }
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        assert!(matches!(open(&link.join("d"), false), Err(Unfit::Io { .. })));
        assert!(!shared.path().join("nowhere").exists());
    }

    #[test]
    fn a_directory_that_is_closed_on_the_way_is_named() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let closed = tempfile::tempdir().unwrap();
        std::fs::set_permissions(closed.path(), Permissions::from_mode(0o700)).unwrap();
        let error = open(&closed.path().join("a/b"), false).unwrap_err().to_string();
        assert!(error.contains(closed.path().to_str().unwrap()) && error.contains("700"), "{error}");
        std::fs::set_permissions(closed.path(), Permissions::from_mode(0o755)).unwrap();
        open(&closed.path().join("a/b"), false).unwrap();
        assert_eq!(closed.path().join("a/b").metadata().unwrap().mode() & 0o777, 0o755);
    }
}
