//! A directory of small files that are written whole or not at all, held by its descriptor.
//!
//! Nothing is synced to disk: what is kept here ends with the boot, and a killed process doesn't lose the page cache.
//! No link is ever followed, and a directory that somebody else may write is refused.
#![forbid(unsafe_code)]

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags},
    io::Errno,
};

/// A directory which only this process's user writes.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
    #[cfg(debug_assertions)]
    watcher: Option<Watcher>,
}

/// What has just been done to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The temporary file is there, and empty.
    Begun,
    /// It has all its bytes.
    Written,
    /// It has its name.
    Placed,
    /// What a killed writer left is gone.
    LeftoverRemoved,
    /// The file is gone.
    Removed,
}

/// Is told of each step with the file's name, and can make it fail, or end the process, so that tests of whoever uses the
/// directory can. Only debug builds call it.
pub type Watcher = fn(Step, &str) -> io::Result<()>;

/// Why a directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It can't be made or opened.
    #[error("{} can't be used: {source}; it must be a directory that this process may write", path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else could write into it.
    #[error("{} belongs to user {owner} with mode {mode:o}, but it must be user {us}'s and nobody else may write it: correct \
             that, or name another directory", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Its permission bits.
        mode: u32,
        /// This process's user.
        us: u32,
    },
    /// A file in it can't be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// How a directory is opened: never through a link.
const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Who may use a file besides its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nobody.
    Private,
    /// Everybody may read it.
    Public,
    /// Everybody may start it.
    Program,
}

impl Access {
    fn mode(self) -> Mode {
        let owner = Mode::RUSR | Mode::WUSR;
        let public = owner | Mode::RGRP | Mode::ROTH;
        match self {
            Self::Private => owner,
            Self::Public => public,
            Self::Program => public | Mode::XUSR | Mode::XGRP | Mode::XOTH,
        }
    }
}

impl Dir {
    /// Makes the directory if need be, and refuses one that is a link or that others may write.
    pub fn open(path: &Path) -> Result<Self, Error> {
        std::fs::create_dir_all(path).map_err(|source| Error::Open { path: path.to_owned(), source })?;
        Self::at(path)
    }

    /// The same for whoever only looks: `None` if there is none.
    pub fn existing(path: &Path) -> Result<Option<Self>, Error> {
        match Self::at(path) {
            Err(Error::Open { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            dir => dir.map(Some),
        }
    }

    fn at(path: &Path) -> Result<Self, Error> {
        let failed = |source: io::Error| Error::Open { path: path.to_owned(), source };
        let fd = rustix::fs::open(path, DIRECTORY, Mode::empty()).map_err(|errno| failed(errno.into()))?;
        Self::checked(fd, path)
    }

    fn checked(fd: OwnedFd, path: &Path) -> Result<Self, Error> {
        let failed = |source: io::Error| Error::Open { path: path.to_owned(), source };
        let stat = rustix::fs::fstat(&fd).map_err(|errno| failed(errno.into()))?;
        let us = rustix::process::geteuid().as_raw();
        if stat.st_uid != us || stat.st_mode & 0o022 != 0 {
            let mode = stat.st_mode & 0o7777;
            return Err(Error::Foreign { path: path.to_owned(), owner: stat.st_uid, mode, us });
        }
        Ok(Self {
            fd,
            path: path.to_owned(),
            #[cfg(debug_assertions)]
            watcher: None,
        })
    }

    /// With somebody who is told of each step in debug builds.
    #[cfg_attr(not(debug_assertions), allow(unused_mut, reason = "nothing is set in release builds"))]
    pub fn watched(mut self, watcher: Watcher) -> Self {
        #[cfg(debug_assertions)]
        {
            self.watcher = Some(watcher);
        }
        #[cfg(not(debug_assertions))]
        let _ = watcher;
        self
    }

    #[cfg(debug_assertions)]
    fn step(&self, step: Step, name: &str) -> io::Result<()> {
        self.watcher.map_or(Ok(()), |watcher| watcher(step, name))
    }

    #[cfg(not(debug_assertions))]
    #[allow(clippy::unused_self, clippy::unnecessary_wraps, reason = "the twin of the one in debug builds")]
    fn step(&self, _step: Step, _name: &str) -> io::Result<()> {
        Ok(())
    }

    /// Where it is, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn failed(&self, name: &str) -> impl FnOnce(io::Error) -> Error {
        let path = self.path.join(name);
        move |source| Error::File { path, source }
    }

    /// Replaces a file whole; a link of that name is replaced and not followed.
    ///
    /// Two writers of one file at once had better take a lock of their own: one of them may fail.
    pub fn write(&self, name: &str, bytes: &[u8], access: Access) -> Result<(), Error> {
        self.replace(name, access, |mut file| file.write_all(bytes))
    }

    /// The same with the content of another file, which need not fit into memory.
    pub fn copy(&self, name: &str, mut from: &File, access: Access) -> Result<(), Error> {
        self.replace(name, access, |mut file| {
            from.rewind()?;
            io::copy(&mut from, &mut file).map(drop)
        })
    }

    fn replace(&self, name: &str, access: Access, fill: impl FnOnce(&File) -> io::Result<()>) -> Result<(), Error> {
        let temporary = temporary(name);
        let write = || -> io::Result<()> {
            let fresh = self.create(&temporary, access)?;
            self.step(Step::Begun, name)?;
            fill(&fresh)?;
            // Before it has its name, as a program that is open for writing can't be started.
            drop(fresh);
            self.step(Step::Written, name)?;
            rustix::fs::renameat(&self.fd, &temporary, &self.fd, name)?;
            self.step(Step::Placed, name)
        };
        write().map_err(|error| {
            let _ = rustix::fs::unlinkat(&self.fd, &temporary, AtFlags::empty());
            self.failed(name)(error)
        })
    }

    fn create(&self, name: &str, access: Access) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(&self.fd, name, flags, access.mode());
        let fd = match open() {
            // Left by a process that was killed while it wrote.
            Err(Errno::EXIST) => {
                rustix::fs::unlinkat(&self.fd, name, AtFlags::empty())?;
                open()?
            }
            other => other?,
        };
        if access != Access::Private {
            // Whatever the umask says.
            rustix::fs::fchmod(&fd, access.mode())?;
        }
        Ok(File::from(fd))
    }

    /// A regular file's bytes; `None` if there is none.
    pub fn read(&self, name: &str, largest: u64) -> Result<Option<Vec<u8>>, Error> {
        let read = || -> io::Result<Option<Vec<u8>>> {
            let Some(file) = self.regular(name)? else { return Ok(None) };
            let mut bytes = Vec::new();
            file.take(largest + 1).read_to_end(&mut bytes)?;
            if bytes.len() as u64 > largest {
                return Err(io::Error::other(format!("it is larger than {largest} bytes")));
            }
            Ok(Some(bytes))
        };
        read().map_err(self.failed(name))
    }

    /// A regular file, open for reading; `None` if there is none.
    pub fn open_file(&self, name: &str) -> Result<Option<File>, Error> {
        self.regular(name).map_err(self.failed(name))
    }

    fn regular(&self, name: &str) -> io::Result<Option<File>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        if FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("it is no regular file"));
        }
        Ok(Some(fd.into()))
    }

    /// Removes a file and what a killed writer left of it; one that isn't there counts as removed.
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        for (file, step) in [(temporary(name).as_str(), Step::LeftoverRemoved), (name, Step::Removed)] {
            let removed = match rustix::fs::unlinkat(&self.fd, file, AtFlags::empty()) {
                Ok(()) => self.step(step, name),
                Err(Errno::NOENT) => Ok(()),
                Err(errno) => Err(errno.into()),
            };
            removed.map_err(self.failed(file))?;
        }
        Ok(())
    }

    /// The names of all entries.
    pub fn names(&self) -> Result<Vec<String>, Error> {
        let list = || -> io::Result<Vec<String>> {
            let mut names = Vec::new();
            for entry in rustix::fs::Dir::read_from(&self.fd)? {
                let name = entry?.file_name().to_string_lossy().into_owned();
                if name != "." && name != ".." {
                    names.push(name);
                }
            }
            Ok(names)
        };
        list().map_err(self.failed("."))
    }

    /// A directory in this one that everybody may pass, made if need be; what else has its name is replaced and not followed.
    pub fn below(&self, name: &str) -> Result<Self, Error> {
        let make = || -> io::Result<OwnedFd> {
            let open = || rustix::fs::openat(&self.fd, name, DIRECTORY, Mode::empty());
            match open() {
                Err(Errno::NOENT) => {}
                Err(Errno::NOTDIR | Errno::LOOP) => rustix::fs::unlinkat(&self.fd, name, AtFlags::empty())?,
                other => return Ok(other?),
            }
            let for_all = Mode::RWXU | Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH;
            match rustix::fs::mkdirat(&self.fd, name, for_all) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
            let fd = open()?;
            // Whatever the umask says.
            rustix::fs::fchmod(&fd, for_all)?;
            Ok(fd)
        };
        self.inherited(make().map_err(self.failed(name))?, name)
    }

    /// The same for whoever only looks: `None` if there is none.
    pub fn existing_below(&self, name: &str) -> Result<Option<Self>, Error> {
        match rustix::fs::openat(&self.fd, name, DIRECTORY, Mode::empty()) {
            Ok(fd) => self.inherited(fd, name).map(Some),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.failed(name)(errno.into())),
        }
    }

    /// Removes a directory in this one with its files, and whatever else has its name; what isn't there counts as removed.
    pub fn remove_below(&self, name: &str) -> Result<(), Error> {
        let flags = match rustix::fs::openat(&self.fd, name, DIRECTORY, Mode::empty()) {
            Ok(fd) => {
                let dir = self.inherited(fd, name)?;
                for file in dir.names()? {
                    dir.remove(unfinished(&file).unwrap_or(&file))?;
                }
                AtFlags::REMOVEDIR
            }
            Err(Errno::NOTDIR | Errno::LOOP) => AtFlags::empty(),
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(self.failed(name)(errno.into())),
        };
        match rustix::fs::unlinkat(&self.fd, name, flags) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.failed(name)(errno.into())),
        }
    }

    #[cfg_attr(not(debug_assertions), allow(unused_mut, reason = "nothing is set in release builds"))]
    fn inherited(&self, fd: OwnedFd, name: &str) -> Result<Self, Error> {
        let mut dir = Self::checked(fd, &self.path.join(name))?;
        #[cfg(debug_assertions)]
        {
            dir.watcher = self.watcher;
        }
        Ok(dir)
    }

    /// Opens a file that all instances of the driver lock in turn.
    pub fn lock_file(&self, name: &str) -> Result<File, Error> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR);
        fd.map(File::from).map_err(|errno| self.failed(name)(errno.into()))
    }
}

/// Hidden, and with an ending that no reader of the directory looks for.
fn temporary(name: &str) -> String {
    format!(".{name}.tmp")
}

/// The file that an unfinished write of a killed process was for, if `name` is such a leftover's.
pub fn unfinished(name: &str) -> Option<&str> {
    name.strip_prefix('.')?.strip_suffix(".tmp")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_directory_that_others_may_write_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("records");
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(Dir::open(&path), Err(Error::Foreign { .. })));
    }

    #[test]
    fn whoever_only_looks_makes_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("records");
        assert!(Dir::existing(&path).unwrap().is_none() && !path.exists());
        drop(Dir::open(&path).unwrap());
        assert!(Dir::existing(&path).unwrap().is_some());
    }

    #[test]
    fn a_linked_directory_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        std::fs::create_dir(parent.path().join("elsewhere")).unwrap();
        symlink("elsewhere", parent.path().join("records")).unwrap();
        assert!(matches!(Dir::open(&parent.path().join("records")), Err(Error::Open { .. })));
    }

    #[test]
    fn a_link_in_a_files_place_is_replaced_and_never_followed() {
        let parent = tempfile::tempdir().unwrap();
        let victim = parent.path().join("victim");
        std::fs::write(&victim, "precious").unwrap();
        let dir = Dir::open(&parent.path().join("records")).unwrap();
        symlink(&victim, parent.path().join("records/a")).unwrap();
        assert!(dir.read("a", 100).is_err());
        dir.write("a", b"new", Access::Private).unwrap();
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
        assert_eq!(dir.read("a", 100).unwrap().unwrap(), b"new");
    }

    #[test]
    fn a_file_that_is_too_large_or_no_file_is_an_error() {
        let parent = tempfile::tempdir().unwrap();
        let dir = Dir::open(&parent.path().join("records")).unwrap();
        dir.write("a", &[b'x'; 11], Access::Private).unwrap();
        assert!(dir.read("a", 10).is_err());
        std::fs::create_dir(parent.path().join("records/d")).unwrap();
        assert!(dir.read("d", 10).is_err());
        assert!(dir.read("missing", 10).unwrap().is_none());
    }

    #[test]
    fn a_watcher_hears_of_each_step_and_a_step_that_it_fails_leaves_nothing_half_done() {
        fn refuse(step: Step, name: &str) -> io::Result<()> {
            match (step, name) {
                (Step::Begun, "a") | (Step::Written, "b") | (Step::Removed, "c") => Err(Errno::NOSPC.into()),
                _ => Ok(()),
            }
        }
        let parent = tempfile::tempdir().unwrap();
        let dir = Dir::open(&parent.path().join("records")).unwrap().watched(refuse);
        for name in ["a", "b"] {
            let error = dir.write(name, b"x", Access::Private).unwrap_err().to_string();
            assert!(error.contains("No space left") && error.contains(name), "{error}");
        }
        assert!(dir.names().unwrap().is_empty());
        dir.write("c", b"x", Access::Private).unwrap();
        assert!(dir.remove("c").is_err());
        dir.remove("c").unwrap();
    }

    #[test]
    fn what_a_killed_writer_left_hinders_nobody_and_goes_with_the_file() {
        let parent = tempfile::tempdir().unwrap();
        let dir = Dir::open(&parent.path().join("records")).unwrap();
        let leftover = parent.path().join("records/.a.tmp");
        std::fs::write(&leftover, "half").unwrap();
        dir.write("a", b"whole", Access::Public).unwrap();
        assert!(!leftover.exists());
        std::fs::write(&leftover, "half").unwrap();
        assert_eq!(unfinished(".a.tmp"), Some("a"));
        dir.remove("a").unwrap();
        assert!(dir.names().unwrap().is_empty());
        dir.remove("a").unwrap();
    }

    #[test]
    fn a_directory_below_is_made_for_all_to_pass_and_goes_with_its_files_and_leftovers() {
        let parent = tempfile::tempdir().unwrap();
        let dir = Dir::open(&parent.path().join("claims")).unwrap();
        dir.below("u1").unwrap().write("a", b"x", Access::Public).unwrap();
        dir.below("u1").unwrap().write("b", b"y", Access::Public).unwrap();
        assert_eq!(parent.path().join("claims/u1").metadata().unwrap().permissions().mode() & 0o777, 0o755);
        std::fs::write(parent.path().join("claims/u1/.c.tmp"), "half").unwrap();
        assert!(dir.existing_below("u1").unwrap().is_some());
        dir.remove_below("u1").unwrap();
        dir.remove_below("u1").unwrap();
        assert!(dir.existing_below("u1").unwrap().is_none() && dir.names().unwrap().is_empty());
    }

    #[test]
    fn a_link_in_its_place_is_replaced_or_removed_and_what_it_leads_to_is_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        let elsewhere = parent.path().join("elsewhere");
        std::fs::create_dir(&elsewhere).unwrap();
        std::fs::write(elsewhere.join("a"), "precious").unwrap();
        let dir = Dir::open(&parent.path().join("claims")).unwrap();
        symlink(&elsewhere, parent.path().join("claims/u1")).unwrap();
        assert!(dir.existing_below("u1").is_err());
        dir.remove_below("u1").unwrap();
        symlink(&elsewhere, parent.path().join("claims/u1")).unwrap();
        dir.below("u1").unwrap().write("a", b"ours", Access::Public).unwrap();
        assert_eq!(std::fs::read(elsewhere.join("a")).unwrap(), b"precious");
        assert_eq!(std::fs::read(parent.path().join("claims/u1/a")).unwrap(), b"ours");
    }
}
