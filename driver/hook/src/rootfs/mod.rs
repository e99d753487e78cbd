//! A container's root file system. The image fills it, so nothing in it is trusted.
//!
//! It is opened once; every path is resolved by the kernel below that (`openat2(2)` with `RESOLVE_IN_ROOT` and
//! `RESOLVE_NO_MAGICLINKS`, Linux 5.6), and what is found is used by its descriptor and never looked up again. No file is
//! read or written on a mount of the pod's, which may be a directory of the host.
use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fchmod, fstat, fstatfs, mkdirat, openat,
        openat2, readlinkat, renameat, statat, symlinkat, unlinkat,
    },
    io::Errno,
};

use crate::bundle::Dev;

/// Beside whatever `..` or a renamed directory makes of a path meanwhile, which the kernel answers with `EAGAIN`.
const ATTEMPTS: u32 = 16;
/// Directories below each other that are made.
const DEEPEST: usize = 16;
/// Names that are looked at in a directory.
const MOST_NAMES: usize = 1024;
/// Of `statfs(2)`: a file system in memory.
const TMPFS: i64 = 0x0102_1994;

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
    #[error(
        "{path} in the container leads to a volume or another mount, where nothing is read or written: mount it elsewhere"
    )]
    Volume { path: String },
    #[error("{path} in the container is a directory")]
    Directory { path: String },
}

/// The root of one container.
#[derive(Debug)]
pub(crate) struct Rootfs {
    root: OwnedFd,
    /// The one that the runtime makes.
    dev: Option<Dev>,
}

impl Rootfs {
    /// Opens it by the path that the runtime gave.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Root { path: path.display().to_string(), source };
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, path, directory, Mode::empty()).map_err(failed)?;
        let (ours, hosts) = (fstat(&root).map_err(failed)?, statat(CWD, "/", AtFlags::empty()).map_err(failed)?);
        if is_same(&ours, &hosts) {
            return Err(Error::Host { path: path.display().to_string() });
        }
        Ok(Self { root, dev: None })
    }

    /// With the `/dev` that the runtime makes, in which links are made then, too.
    pub(crate) fn with_dev(self, dev: Option<Dev>) -> Self {
        Self { dev, ..self }
    }

    /// A file's content; none where there is no such file.
    pub(crate) fn read(&self, path: &str, limit: usize) -> Result<Option<Vec<u8>>, Error> {
        let failed = |source| at(path, "read", source);
        // Opening is an act for some: a FIFO waits for ever, a watchdog's node in an image has the machine start anew, and
        // the kernel's log is gone for whoever reads it next. So it is only looked at first.
        let there = match self.resolve(path, OFlags::PATH, BELOW_AND_ITS_OWN) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(Errno::XDEV) => return Err(Error::Volume { path: path.to_owned() }),
            opened => opened.map_err(|source| failed(source.into()))?,
        };
        let kind = fstat(&there).map_err(|source| failed(source.into()))?.st_mode;
        if FileType::from_raw_mode(kind) != FileType::RegularFile {
            return Err(failed(io::Error::other("it is no regular file")));
        }
        let file = File::open(by_descriptor(&there)).map_err(failed)?;
        let mut bytes = Vec::new();
        file.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() > limit {
            return Err(Error::Large { path: path.to_owned(), limit });
        }
        Ok(Some(bytes))
    }

    /// Puts a file in the place of whatever is there but a directory; whole, or none.
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
            // In the place of another file, ext4 has the new one's data written to disk before it returns
            // (auto_da_alloc, ext4(5)), for which nobody has asked: a container that isn't ready doesn't start.
            match unlinkat(&dir, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
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
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        self.links(dir, [(name, target)])
    }

    /// The same for several names in one directory, which is opened once.
    pub(crate) fn links<'a>(
        &self,
        dir: &str,
        links: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<(), Error> {
        let open = self.dir(dir, DEEPEST)?;
        links.into_iter().try_for_each(|(name, target)| {
            link(open.as_fd(), name, target).map_err(|error| match error {
                Errno::ISDIR => Error::Directory { path: format!("{dir}/{name}") },
                error => at(&format!("{dir}/{name}"), "linked", error.into()),
            })
        })
    }

    /// Whether there is a directory.
    pub(crate) fn has_dir(&self, path: &str) -> bool {
        self.resolve(path, OFlags::PATH | OFlags::DIRECTORY, BELOW).is_ok()
    }

    /// Whether two paths lead to one directory.
    pub(crate) fn is_one_dir(&self, path: &str, other: &str) -> bool {
        let stat = |path| self.resolve(path, OFlags::PATH | OFlags::DIRECTORY, BELOW).and_then(fstat).ok();
        stat(path).zip(stat(other)).is_some_and(|(one, two)| is_same(&one, &two))
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
        let open = || match self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY, BELOW_AND_ITS_OWN) {
            Err(Errno::XDEV) => self.in_dev(path).unwrap_or(Err(Errno::XDEV)),
            opened => opened,
        };
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

    /// A directory in the `/dev` that the runtime made for this container, which is a mount as well; none where the pod
    /// has mounted something else there, such as the host's or a volume in memory.
    fn in_dev(&self, path: &str) -> Option<Result<OwnedFd, Errno>> {
        let below = path.strip_prefix("/dev").filter(|rest| rest.is_empty() || rest.starts_with('/'))?;
        let Dev { later } = self.dev.as_ref()?;
        // By a link of the image, a volume may have been mounted over it under any name.
        if later.iter().any(|place| ["/dev", "/"].iter().any(|over| self.is_one_dir(place, over))) {
            return None;
        }
        let dev = self.resolve("/dev", OFlags::PATH | OFlags::DIRECTORY, BELOW | ResolveFlags::NO_SYMLINKS).ok()?;
        let is_in_memory = fstatfs(&dev).is_ok_and(|of| of.f_type == TMPFS);
        let hosts = statat(CWD, "/dev", AtFlags::empty()).ok()?;
        if !is_in_memory || fstat(&dev).ok()?.st_dev == hosts.st_dev {
            return None;
        }
        Some(resolve(dev.as_fd(), below, OFlags::RDONLY | OFlags::DIRECTORY, BELOW_AND_ITS_OWN))
    }

    fn resolve(&self, path: &str, flags: OFlags, how: ResolveFlags) -> Result<OwnedFd, Errno> {
        resolve(self.root.as_fd(), path, flags, how)
    }
}

fn resolve(root: BorrowedFd<'_>, path: &str, flags: OFlags, how: ResolveFlags) -> Result<OwnedFd, Errno> {
    let path = path.trim_start_matches('/');
    let path = if path.is_empty() { "." } else { path };
    for _ in 0..ATTEMPTS {
        match openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), how) {
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// The path, in the host's procfs, of what is open already, whatever has become of its own path.
pub(crate) fn by_descriptor(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn is_same(one: &Stat, two: &Stat) -> bool {
    (one.st_dev, one.st_ino) == (two.st_dev, two.st_ino)
}

/// Links a name in an open directory.
fn link(dir: BorrowedFd<'_>, name: &str, target: &str) -> Result<(), Errno> {
    // Images have none of these names as a rule, so that most are one call.
    match symlinkat(target, dir, name) {
        Err(Errno::EXIST) => {}
        linked => return linked,
    }
    let there = FileType::from_raw_mode(statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode);
    if there == FileType::Directory {
        return Err(Errno::ISDIR);
    }
    if there == FileType::Symlink && readlinkat(dir, name, Vec::new())?.to_bytes() == target.as_bytes() {
        return Ok(());
    }
    let temporary = temporary();
    symlinkat(target, dir, &temporary)?;
    renameat(dir, &temporary, dir, name).inspect_err(|_| {
        let _ = unlinkat(dir, &temporary, AtFlags::empty());
    })
}

/// In a directory that belongs to the container, in which nothing runs yet.
fn temporary() -> String {
    format!(".aliquot-hook-{}", std::process::id())
}

fn at(path: &str, what: &'static str, source: io::Error) -> Error {
    Error::At { path: path.to_owned(), what, source }
}

#[cfg(test)]
mod tests;
