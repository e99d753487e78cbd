//! A socket at which others ask the driver: root's alone, and handed from one driver instance to the next without a gap.
use std::{
    fs, io,
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _},
        net::UnixListener as StdListener,
    },
    path::{Path, PathBuf},
};

use owned_dir::Step;
use rustix::{
    fs::Mode,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};
use tokio::net::{UnixListener, UnixStream};

use crate::fault;

const BACKLOG: i32 = 64;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
#[error("the socket {} can't be made", path.display())]
pub(crate) struct Error {
    path: PathBuf,
    source: io::Error,
}

/// A listening socket; its file goes when this is dropped, unless another one has taken the name.
#[derive(Debug)]
pub(crate) struct Socket {
    listener: UnixListener,
    dir: PathBuf,
    name: &'static str,
    /// Device and inode of the file that was made.
    identity: (u64, u64),
}

impl Socket {
    /// Listens as `name` in `dir`, which nobody else may write, in place of whoever did before.
    ///
    /// During a rolling update that may be a driver that still runs; it ends soon, and both know the same claims.
    pub(crate) fn bind(dir: &Path, name: &'static str) -> Result<Self, Error> {
        let failed = |source: io::Error| Error { path: dir.join(name), source };
        let fresh = dir.join(fresh(name));
        match fresh.symlink_metadata() {
            Ok(meta) if meta.file_type().is_socket() => fs::remove_file(&fresh).map_err(failed)?,
            Ok(_) => return Err(failed(io::Error::other(format!("{} is in the way", fresh.display())))),
            Err(_) => {}
        }
        let place = || {
            let (listener, identity) = listen(&fresh)?;
            fault::socket(Step::Written, name)?;
            fs::rename(&fresh, dir.join(name))?;
            fault::socket(Step::Placed, name)?;
            Ok(Self { listener, dir: dir.to_owned(), name, identity })
        };
        place().map_err(|error| {
            let _ = fs::remove_file(&fresh);
            failed(error)
        })
    }

    /// The next caller.
    pub(crate) async fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.listener.accept().await?.0)
    }

    /// Whether nobody listens at the path any more: another instance took it and has ended, or the file was removed.
    pub(super) fn is_gone(&self) -> bool {
        identity(&self.path()).is_err()
    }

    /// The directory that it is in.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    fn path(&self) -> PathBuf {
        self.dir.join(self.name)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if identity(&self.path()).is_ok_and(|identity| identity == self.identity) {
            let _ = fs::remove_file(self.path());
        }
    }
}

/// Whether a caller is root, or this process's own user.
pub(crate) fn is_trusted(stream: &UnixStream) -> bool {
    let us = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == us)
}

/// Where it is bound before it gets its name: `limits.new` for `limits.sock`.
fn fresh(name: &str) -> PathBuf {
    Path::new(name).with_extension("new")
}

fn listen(path: &Path) -> io::Result<(UnixListener, (u64, u64))> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&fd, &address)?;
    // Between bind and listen nobody can connect yet, whatever the umask has made of the mode.
    rustix::fs::chmod(path, Mode::RUSR | Mode::WUSR)?;
    rustix::net::listen(&fd, BACKLOG)?;
    Ok((UnixListener::from_std(StdListener::from(fd))?, identity(path)?))
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    path.symlink_metadata().map(|meta| (meta.dev(), meta.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOCKET: &str = "some.sock";
    const FRESH: &str = "some.new";

    #[tokio::test]
    async fn one_instance_takes_over_from_another_and_only_the_last_takes_the_file_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SOCKET);
        let first = Socket::bind(dir.path(), SOCKET).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        let second = Socket::bind(dir.path(), SOCKET).unwrap();
        drop(first);
        let caller = UnixStream::connect(&path).await.unwrap();
        assert!(is_trusted(&second.accept().await.unwrap()) && !second.is_gone());
        drop((second, caller));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_a_killed_driver_left_is_replaced_and_a_file_is_not() {
        let dir = tempfile::tempdir().unwrap();
        std::mem::forget(Socket::bind(dir.path(), SOCKET).unwrap());
        drop(StdListener::bind(dir.path().join(FRESH)).unwrap());
        drop(Socket::bind(dir.path(), SOCKET).unwrap());
        std::fs::write(dir.path().join(FRESH), "precious").unwrap();
        let error = crate::report(&Socket::bind(dir.path(), SOCKET).unwrap_err());
        assert!(error.contains("in the way"), "{error}");
    }
}
