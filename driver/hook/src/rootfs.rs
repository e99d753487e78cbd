//! A container's root file system. The image fills it, so nothing in it is trusted.
//!
//! It is opened once; every path is resolved by the kernel below that (`openat2(2)` with `RESOLVE_IN_ROOT` and
//! `RESOLVE_NO_MAGICLINKS`, Linux 5.6), and what is found is used by its descriptor and never looked up again. Nothing is
//! written on a mount of the pod's, which may be a directory of the host.
use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, fchmod, fstat, mkdirat, openat, openat2, readlinkat,
        renameat, statat, symlinkat, unlinkat,
    },
    io::Errno,
};

/// Beside whatever `..` or a renamed directory makes of a path meanwhile, which the kernel answers with `EAGAIN`.
const ATTEMPTS: u32 = 16;
/// Directories below each other that are made.
const DEEPEST: usize = 16;
/// Names that are looked at in a directory.
const MOST_NAMES: usize = 1024;

const BELOW: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);
const BELOW_AND_ITS_OWN: ResolveFlags = BELOW.union(ResolveFlags::NO_XDEV);

/// What can't be done in a container.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{path} is the host's own root and no container's")]
    Host { path: String },
    #[error("the container's root {path} can't be opened: {source}")]
    Root { path: String, source: Errno },
    #[error("{path} in the container can't be {what}: {source}")]
    At { path: String, what: &'static str, source: io::Error },
    #[error("{path} in the container is larger than {limit} bytes")]
    Large { path: String, limit: usize },
    #[error("{path} in the container is on a volume of the pod, where nothing is written")]
    Volume { path: String },
    #[error("{path} in the container is a directory")]
    Directory { path: String },
}

/// The root of one container.
#[derive(Debug)]
pub(crate) struct Rootfs(OwnedFd);

impl Rootfs {
    /// Opens it by the path that the runtime gave.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Root { path: path.display().to_string(), source };
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, path, directory, Mode::empty()).map_err(failed)?;
        let (ours, hosts) = (fstat(&root).map_err(failed)?, statat(CWD, "/", AtFlags::empty()).map_err(failed)?);
        if (ours.st_dev, ours.st_ino) == (hosts.st_dev, hosts.st_ino) {
            return Err(Error::Host { path: path.display().to_string() });
        }
        Ok(Self(root))
    }

    /// A file's content; none where there is no such file.
    pub(crate) fn read(&self, path: &str, limit: usize) -> Result<Option<Vec<u8>>, Error> {
        let failed = |source| at(path, "read", source);
        // Without O_NONBLOCK a FIFO would keep the container from starting for ever.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = match self.resolve(path, flags, BELOW) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            opened => opened.map_err(|source| failed(source.into()))?,
        };
        let kind = fstat(&fd).map_err(|source| failed(source.into()))?.st_mode;
        if FileType::from_raw_mode(kind) != FileType::RegularFile {
            return Err(failed(io::Error::other("it is no regular file")));
        }
        let mut bytes = Vec::new();
        File::from(fd).take(limit as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() > limit {
            return Err(Error::Large { path: path.to_owned(), limit });
        }
        Ok(Some(bytes))
    }

    /// Puts a file in the place of whatever is there, whole or not at all.
    pub(crate) fn write(&self, path: &str, bytes: &[u8]) -> Result<(), Error> {
        let (dir, name) = self.place(path)?;
        let failed = |source: io::Error| at(path, "written", source);
        let temporary = temporary();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file =
            openat(&dir, &temporary, flags, Mode::from_raw_mode(0o600)).map_err(|source| failed(source.into()))?;
        let written = (|| {
            let mut file = File::from(file);
            file.write_all(bytes)?;
            fchmod(&file, Mode::from_raw_mode(0o644))?;
            renameat(&dir, &temporary, &dir, name)?;
            Ok(())
        })();
        written.map_err(|error| {
            let _ = unlinkat(&dir, &temporary, AtFlags::empty());
            failed(error)
        })
    }

    /// Puts a symbolic link in the place of whatever is there but a directory.
    pub(crate) fn link(&self, path: &str, target: &str) -> Result<(), Error> {
        let (dir, name) = self.place(path)?;
        let failed = |source: Errno| at(path, "linked", source.into());
        match statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) if FileType::from_raw_mode(there.st_mode) == FileType::Directory => {
                return Err(Error::Directory { path: path.to_owned() });
            }
            Ok(there) if FileType::from_raw_mode(there.st_mode) == FileType::Symlink => {
                let to = readlinkat(&dir, name, Vec::new()).map_err(failed)?;
                if to.to_bytes() == target.as_bytes() {
                    return Ok(());
                }
            }
            Ok(_) | Err(Errno::NOENT) => {}
            Err(error) => return Err(failed(error)),
        }
        let temporary = temporary();
        symlinkat(target, &dir, &temporary).map_err(failed)?;
        renameat(&dir, &temporary, &dir, name).map_err(|error| {
            let _ = unlinkat(&dir, &temporary, AtFlags::empty());
            failed(error)
        })
    }

    /// Whether there is a directory.
    pub(crate) fn has_dir(&self, path: &str) -> bool {
        self.resolve(path, OFlags::PATH | OFlags::DIRECTORY, BELOW).is_ok()
    }

    /// The names in a directory, sorted; none where there is none.
    pub(crate) fn names(&self, path: &str) -> Result<Vec<String>, Error> {
        let failed = |source: Errno| at(path, "listed", source.into());
        let fd = match self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK, BELOW) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Vec::new()),
            opened => opened.map_err(failed)?,
        };
        let entries = Dir::new(fd).map_err(failed)?.take(MOST_NAMES);
        let mut names: Vec<String> =
            entries.flatten().filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned)).collect();
        names.sort();
        Ok(names)
    }

    /// A file of the container to mount over; none where there is none.
    pub(crate) fn mount_point(&self, path: &str) -> Result<Option<OwnedFd>, Error> {
        match self.resolve(path, OFlags::PATH | OFlags::NOFOLLOW, BELOW) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(at(path, "opened", error.into())),
        }
    }

    /// The directory that a path is in, which is made where it is missing, and the path's last name.
    fn place<'a>(&self, path: &'a str) -> Result<(OwnedFd, &'a str), Error> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.dir(dir, DEEPEST)?, name))
    }

    fn dir(&self, path: &str, deeper: usize) -> Result<OwnedFd, Error> {
        // The runtime's own /dev is a mount as well.
        let resolve = if path == "/dev" || path.starts_with("/dev/") { BELOW } else { BELOW_AND_ITS_OWN };
        let open = || self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY, resolve);
        let failed = |error: Errno| match error {
            Errno::XDEV => Error::Volume { path: path.to_owned() },
            error => at(path, "made", error.into()),
        };
        match open() {
            Err(Errno::NOENT) if deeper > 0 && !path.is_empty() => {
                let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
                let above = self.dir(above, deeper - 1)?;
                match mkdirat(&above, name, Mode::from_raw_mode(0o755)) {
                    // A link to nowhere is there, and leads to none.
                    Ok(()) | Err(Errno::EXIST) => open().map_err(failed),
                    Err(error) => Err(failed(error)),
                }
            }
            opened => opened.map_err(failed),
        }
    }

    fn resolve(&self, path: &str, flags: OFlags, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
        let path = path.trim_start_matches('/');
        let path = if path.is_empty() { "." } else { path };
        for _ in 0..ATTEMPTS {
            match openat2(self.fd(), path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                Err(Errno::AGAIN) => {}
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// In a directory that belongs to the container, in which nothing runs yet.
fn temporary() -> String {
    format!(".aliquot-hook-{}", std::process::id())
}

fn at(path: &str, what: &'static str, source: io::Error) -> Error {
    Error::At { path: path.to_owned(), what, source }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt as _, symlink},
        path::PathBuf,
    };

    use rustix::fs::mknodat;

    use super::*;

    /// A container's root, and beside it what stands for the host.
    struct Trees {
        dir: tempfile::TempDir,
        root: Rootfs,
    }

    impl Trees {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir_all(dir.path().join("root/etc")).unwrap();
            fs::create_dir_all(dir.path().join("host/etc")).unwrap();
            fs::write(dir.path().join("host/etc/secret"), "secret").unwrap();
            let root = Rootfs::open(&dir.path().join("root")).unwrap();
            Self { dir, root }
        }

        fn inside(&self, path: &str) -> PathBuf {
            self.dir.path().join("root").join(path)
        }

        fn host(&self) -> Vec<(PathBuf, Vec<u8>)> {
            let mut all = Vec::new();
            let mut dirs = vec![self.dir.path().join("host")];
            while let Some(dir) = dirs.pop() {
                for entry in fs::read_dir(dir).unwrap().flatten() {
                    let path = entry.path();
                    if path.is_dir() { dirs.push(path) } else { all.push((path.clone(), fs::read(path).unwrap())) }
                }
            }
            all
        }
    }

    #[test]
    fn the_hosts_root_is_no_containers() {
        assert!(matches!(Rootfs::open(Path::new("/")), Err(Error::Host { .. })));
        let dir = tempfile::tempdir().unwrap();
        symlink("/", dir.path().join("rootfs")).unwrap();
        assert!(matches!(Rootfs::open(&dir.path().join("rootfs")), Err(Error::Host { .. })));
    }

    #[test]
    fn a_file_takes_the_place_of_what_was_there_with_directories_as_needed() {
        let trees = Trees::new();
        trees.root.write("/etc/ld.so.cache", b"one").unwrap();
        trees.root.write("/etc/ld.so.cache", b"two").unwrap();
        trees.root.write("/a/b/c/d", b"deep").unwrap();
        assert_eq!(fs::read(trees.inside("etc/ld.so.cache")).unwrap(), b"two");
        assert_eq!(fs::read(trees.inside("a/b/c/d")).unwrap(), b"deep");
        assert_eq!(fs::metadata(trees.inside("a/b/c/d")).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(trees.inside("etc")).unwrap().count(), 1, "nothing half-made is left");
    }

    #[test]
    fn links_of_the_image_lead_nowhere_out_of_it() {
        let trees = Trees::new();
        let (before, host) = (trees.host(), trees.dir.path().join("host"));
        let up = "../".repeat(20);
        for (name, target) in [
            ("absolute", host.display().to_string()),
            ("upwards", format!("{up}{}", host.display())),
            ("root", "/proc/self/root".to_owned()),
            ("cwd", "/proc/self/cwd".to_owned()),
        ] {
            symlink(&target, trees.inside(name)).unwrap();
            assert!(trees.root.read(&format!("/{name}/etc/secret"), 100).ok().flatten().is_none(), "{name}");
            let _ = trees.root.write(&format!("/{name}/etc/new"), b"x");
            let _ = trees.root.link(&format!("/{name}/etc/secret"), "elsewhere");
            assert!(trees.root.names(&format!("/{name}/etc")).unwrap_or_default().is_empty(), "{name}");
        }
        symlink(host.join("etc/secret"), trees.inside("etc/ld.so.cache")).unwrap();
        assert_eq!(trees.root.read("/etc/ld.so.cache", 100).unwrap(), None);
        trees.root.write("/etc/ld.so.cache", b"ours").unwrap();
        assert_eq!(fs::read(trees.inside("etc/ld.so.cache")).unwrap(), b"ours");
        assert_eq!(trees.host(), before);
    }

    #[test]
    fn links_within_the_image_are_followed() {
        let trees = Trees::new();
        fs::create_dir_all(trees.inside("usr/lib")).unwrap();
        symlink("/usr/lib", trees.inside("lib")).unwrap();
        trees.root.link("/lib/x.so", "x.so.1").unwrap();
        assert_eq!(fs::read_link(trees.inside("usr/lib/x.so")).unwrap(), Path::new("x.so.1"));
    }

    #[test]
    fn a_link_in_a_circle_is_an_error() {
        let trees = Trees::new();
        symlink("b", trees.inside("a")).unwrap();
        symlink("a", trees.inside("b")).unwrap();
        assert!(trees.root.write("/a/x", b"x").is_err());
        assert!(trees.root.read("/a/x", 1).is_err());
    }

    #[test]
    fn a_fifo_or_a_device_is_not_read() {
        let trees = Trees::new();
        mknodat(CWD, trees.inside("etc/ld.so.cache"), FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
        let error = trees.root.read("/etc/ld.so.cache", 100).unwrap_err();
        assert!(error.to_string().contains("no regular file"), "{error}");
    }

    #[test]
    fn a_file_without_an_end_is_given_up() {
        let trees = Trees::new();
        fs::write(trees.inside("etc/big"), [0; 101]).unwrap();
        assert!(matches!(trees.root.read("/etc/big", 100), Err(Error::Large { .. })));
        assert_eq!(trees.root.read("/etc/big", 101).unwrap().unwrap().len(), 101);
    }

    #[test]
    fn a_link_takes_the_place_of_anything_but_a_directory() {
        let trees = Trees::new();
        fs::write(trees.inside("etc/file"), "x").unwrap();
        symlink("old", trees.inside("etc/link")).unwrap();
        for name in ["file", "link", "none"] {
            trees.root.link(&format!("/etc/{name}"), "new").unwrap();
            assert_eq!(fs::read_link(trees.inside(&format!("etc/{name}"))).unwrap(), Path::new("new"), "{name}");
        }
        fs::create_dir(trees.inside("etc/dir")).unwrap();
        assert!(matches!(trees.root.link("/etc/dir", "new"), Err(Error::Directory { .. })));
    }
}
