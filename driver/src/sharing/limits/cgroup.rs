//! The cgroup of a container that is being made: from its first process's line in procfs to a directory of the hierarchy.
use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
};

use crate::{roots::Roots, sharing::guard::cgroup::Kubepods};

/// In every cgroup of the unified hierarchy, and in none of an older one (kernel, `admin-guide/cgroup-v2.rst`).
const UNIFIED: &str = "cgroup.controllers";
/// A longer list of cgroups is none of the kernel's.
const LARGEST: u64 = 64 * 1024;

/// A container's cgroup.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cgroup {
    /// Its directory.
    pub(super) path: PathBuf,
    /// Tells it from another one that has its path later.
    pub(super) inode: u64,
}

/// Why a process has no cgroup that could be limited.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The process is gone, or another host's.
    #[error("process {pid} isn't seen by the driver ({source}), which must run in the host's PID namespace (hostPID)")]
    Process {
        /// The process.
        pid: u32,
        /// What the system said.
        source: io::Error,
    },
    /// It is in no cgroup of the unified hierarchy.
    #[error("process {pid} is in no cgroup of the v2 hierarchy, by which alone GPU memory can be limited")]
    NotUnified {
        /// The process.
        pid: u32,
    },
    /// The path leads out of what the driver sees.
    #[error(
        "the cgroup {path:?} of process {pid} is outside of the driver's own view: it must run in the host's cgroup \
         namespace (a privileged pod does)"
    )]
    Outside {
        /// The process.
        pid: u32,
        /// In procfs.
        path: String,
    },
    /// A limit would hit more than one container.
    #[error("the cgroup {path:?} of process {pid} is no pod's, so a limit could hit others")]
    NoPod {
        /// The process.
        pid: u32,
        /// In procfs.
        path: String,
    },
    /// The hierarchy isn't mounted there.
    #[error("the cgroup {} of process {pid} can't be found ({source})", path.display())]
    Missing {
        /// The process.
        pid: u32,
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Finds cgroups.
#[derive(Debug)]
pub(super) struct Cgroups {
    proc: PathBuf,
    hierarchy: PathBuf,
    kubepods: Kubepods,
}

impl Cgroups {
    pub(super) fn new(roots: &Roots, kubepods: Kubepods) -> Self {
        Self { proc: roots.proc.clone(), hierarchy: hierarchy(roots), kubepods }
    }

    /// The cgroup of a process.
    pub(super) fn of(&self, pid: u32) -> Result<Cgroup, Error> {
        let mut text = String::new();
        let file = File::open(self.proc.join(pid.to_string()).join("cgroup"));
        let read = file.and_then(|file| file.take(LARGEST).read_to_string(&mut text));
        read.map_err(|source| Error::Process { pid, source })?;
        let path = unified(&text).ok_or(Error::NotUnified { pid })?;
        let below = Path::new(path.strip_prefix('/').unwrap_or(path));
        if !below.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(Error::Outside { pid, path: path.to_owned() });
        }
        // Of a container outside of a pod, the cgroup may be that of its runtime.
        if self.kubepods.pod_of(&format!("0::{path}")).is_none() {
            return Err(Error::NoPod { pid, path: path.to_owned() });
        }
        let path = self.hierarchy.join(below);
        match inode(&path) {
            Ok(inode) => Ok(Cgroup { path, inode }),
            Err(source) => Err(Error::Missing { pid, path, source }),
        }
    }
}

impl Cgroup {
    /// Whether it still is what it was.
    pub(super) fn is_there(&self) -> bool {
        inode(&self.path).is_ok_and(|inode| inode == self.inode)
    }
}

fn inode(path: &Path) -> io::Result<u64> {
    let meta = path.symlink_metadata()?;
    if meta.is_dir() { Ok(meta.ino()) } else { Err(io::ErrorKind::NotADirectory.into()) }
}

/// The path in the unified hierarchy.
fn unified(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

/// Where the unified hierarchy is, if the host has no other.
pub(super) fn hierarchy(roots: &Roots) -> PathBuf {
    roots.sys.join("fs/cgroup")
}

/// Whether the host has the unified hierarchy, and not older ones beside it.
pub(super) fn is_unified(roots: &Roots) -> bool {
    hierarchy(roots).join(UNIFIED).is_file()
}

/// Whether containers could be seen, as far as that shows before there are any: to a process with PID or cgroup namespaces
/// of its own, the host's first process is itself, or is outside of the hierarchy.
pub(super) fn is_in_view(roots: &Roots) -> bool {
    let groups = std::fs::read_to_string(roots.proc.join("1/cgroup")).unwrap_or_default();
    let is_outside = unified(&groups).is_some_and(|path| path.starts_with("/.."));
    std::process::id() != 1 && !is_outside
}

#[cfg(test)]
mod tests {
    use super::{super::tests::Tree, *};

    #[test]
    fn a_containers_cgroup_is_found_below_the_hierarchy() {
        let tree = Tree::new();
        let path = tree.place(7, "/kubepods/pod-a/c1");
        let found = Cgroups::new(&tree.roots(), Kubepods::default()).of(7).unwrap();
        assert!(found.path == path && found.is_there());
        std::fs::rename(&path, path.with_file_name("c2")).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(!found.is_there(), "another one has its path");
    }

    #[test]
    fn what_is_no_containers_cgroup_is_told_from_one_with_what_to_do() {
        let tree = Tree::new();
        tree.place(7, "/kubepods/pod-a/c1");
        for (lines, words) in [
            ("0::/../../kubepods/pod-b/c1\n", "host's cgroup namespace"),
            ("0::/kubepods/pod-a/../pod-b/c1\n", "host's cgroup namespace"),
            ("0::/\n", "no pod's"),
            ("0::/system.slice/containerd.service\n", "no pod's"),
            ("3:memory:/kubepods/pod-a/c1\n", "v2 hierarchy"),
            ("0::/kubepods/pod-a/c9\n", "can't be found"),
            ("", "v2 hierarchy"),
        ] {
            tree.write(8, lines);
            let error = Cgroups::new(&tree.roots(), Kubepods::default()).of(8).unwrap_err().to_string();
            assert!(error.contains(words), "{lines}: {error}");
        }
        let error = Cgroups::new(&tree.roots(), Kubepods::default()).of(9).unwrap_err().to_string();
        assert!(error.contains("hostPID"), "{error}");
    }

    #[test]
    fn a_directory_that_is_no_hierarchy_is_told_from_one() {
        let tree = Tree::new();
        assert!(!is_unified(&tree.roots()));
        std::fs::write(hierarchy(&tree.roots()).join(UNIFIED), "cpu memory\n").unwrap();
        assert!(is_unified(&tree.roots()));
    }

    #[test]
    fn a_driver_with_a_cgroup_namespace_of_its_own_notices_it_before_containers_do() {
        let tree = Tree::new();
        for (lines, expected) in [("0::/init.scope\n", true), ("0::/\n", true), ("0::/../../../init.scope\n", false)] {
            tree.write(1, lines);
            assert_eq!(is_in_view(&tree.roots()), expected, "{lines}");
        }
    }
}
