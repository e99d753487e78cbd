//! Unix sockets that only the kubelet reaches: named within the limits, bound with care, removed only if still ours.
pub(crate) mod orphans;

use std::{
    io,
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, MetadataExt},
        net::UnixListener as StdListener,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::Mode,
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};
use tokio::net::UnixListener;

use crate::name::DriverName;

/// What fits into `sun_path` with its closing NUL (unix(7)), in bytes.
const LONGEST_PATH: usize = 107;
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 64;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The path does not fit into a socket address.
    #[error(
        "the socket path {} has {} bytes and at most {LONGEST_PATH} are possible: use a shorter driver name, or a \
         kubelet with a shorter --root-dir", path.display(), path.as_os_str().len()
    )]
    TooLong {
        /// The path.
        path: PathBuf,
    },
    /// The kubelet wants to be told an absolute path, in UTF-8.
    #[error("{} is not an absolute path in UTF-8, so the kubelet could not open it", path.display())]
    NotAbsolute {
        /// The path.
        path: PathBuf,
    },
    /// Something that is not a directory is where the socket's directory should be.
    #[error("{} must be a directory, and not a symlink to one; it is {found}", path.display())]
    NotADirectory {
        /// The directory's path.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// Someone else could replace the socket.
    #[error(
        "{} belongs to user {owner} and has mode {mode:04o}: it must belong to root or to the user of this process, and no \
         one else may write there", path.display()
    )]
    UnsafeDirectory {
        /// The directory.
        path: PathBuf,
        /// Its owner's user ID.
        owner: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// Something that is no socket is in the way; it is not ours to remove.
    #[error("{} is in the way: it is {found}, where only a socket of an earlier run was expected; remove it", path.display())]
    InTheWay {
        /// The socket's path.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// Another process serves there.
    #[error(
        "another process answers on {}: is a second instance of this driver running on the node without rolling update?",
        path.display()
    )]
    InUse {
        /// The socket's path.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// How it failed.
        source: io::Error,
    },
}

/// Where a plugin's sockets are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SocketPaths {
    /// The kubelet watches this one's directory.
    pub(crate) registration: SocketPath,
    /// The kubelet is told this one.
    pub(crate) dra: SocketPath,
}

impl SocketPaths {
    /// The sockets of `driver` below the kubelet's root; with `instance` (a pod's UID), two can run side by side.
    ///
    /// The `@` is what lets a plain HTTP/2 server take the kubelet's call: all before it in the percent-encoded
    /// `:authority` then counts as user information. The kubelet takes any name.
    pub(crate) fn new(kubelet_root: &Path, driver: &DriverName, instance: Option<&str>) -> Result<Self, SocketError> {
        let mark = instance.map(|uid| format!("-{:08x}", short_hash(uid))).unwrap_or_default();
        let registration = format!("plugins_registry/{driver}{mark}@reg.sock");
        let dra = format!("plugins/{driver}/dra{mark}.sock");
        Ok(Self {
            registration: SocketPath::new(kubelet_root, &registration)?,
            dra: SocketPath::new(kubelet_root, &dra)?,
        })
    }
}

/// FNV-1a folded to 32 bits: enough to tell the pods of one driver on one node apart, and short.
fn short_hash(text: &str) -> u32 {
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    u32::try_from((hash >> 32) ^ (hash & u64::from(u32::MAX))).unwrap_or_default()
}

/// A path that a socket can be bound to and that the kubelet can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SocketPath {
    text: String,
    /// Everything below this directory is made when it is missing, and must be safe.
    root: PathBuf,
}

impl SocketPath {
    pub(crate) fn new(root: &Path, below: &str) -> Result<Self, SocketError> {
        let path = root.join(below);
        if path.as_os_str().len() > LONGEST_PATH {
            return Err(SocketError::TooLong { path });
        }
        match path.to_str() {
            Some(text) if path.is_absolute() => Ok(Self { text: text.to_owned(), root: root.to_owned() }),
            _ => Err(SocketError::NotAbsolute { path }),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    fn path(&self) -> &Path {
        Path::new(&self.text)
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(Errno) -> SocketError {
        let path = self.path().to_owned();
        move |source| SocketError::Io { what, path, source: source.into() }
    }
}

/// A listening socket; its file goes when this is dropped, unless another one has taken the name.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) listener: UnixListener,
    path: SocketPath,
    /// Device and inode of the file that was made.
    identity: (u64, u64),
}

impl Socket {
    /// Listens at `path`, in place of a socket that an earlier run left. The directory is made if it is missing.
    pub(crate) fn bind(path: &SocketPath) -> Result<Self, SocketError> {
        let below = path.path().parent().and_then(|directory| directory.strip_prefix(&path.root).ok());
        let mut directory = path.root.clone();
        for part in below.into_iter().flatten() {
            directory.push(part);
            make_directory(&directory)?;
        }
        remove_stale(path)?;
        let address = SocketAddrUnix::new(path.path()).map_err(path.failed("name a socket"))?;
        let fd = unix_socket().map_err(path.failed("make a socket for"))?;
        rustix::net::bind(&fd, &address).map_err(path.failed("bind"))?;
        // Between bind and listen nobody can connect yet, whatever the umask has made of the mode.
        rustix::fs::chmod(path.path(), Mode::RUSR | Mode::WUSR).map_err(path.failed("restrict"))?;
        rustix::net::listen(&fd, BACKLOG).map_err(path.failed("listen on"))?;
        let identity = identity(path.path()).map_err(|source| io_error("examine", path.path(), source))?;
        let listener = UnixListener::from_std(StdListener::from(fd))
            .map_err(|source| io_error("watch for connections on", path.path(), source))?;
        Ok(Self { listener, path: path.clone(), identity })
    }

    /// Whether the file is still the one that was made.
    pub(crate) fn is_in_place(&self) -> bool {
        identity(self.path.path()).is_ok_and(|identity| identity == self.identity)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.is_in_place()
            && let Err(error) = std::fs::remove_file(self.path.path())
        {
            tracing::warn!(path = self.path.as_str(), "cannot remove the socket: {error}");
        }
    }
}

fn unix_socket() -> Result<std::os::fd::OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|meta| (meta.dev(), meta.ino()))
}

fn io_error(what: &'static str, path: &Path, source: io::Error) -> SocketError {
    SocketError::Io { what, path: path.to_owned(), source }
}

/// Makes `directory` if it is missing, and checks that nobody else can put files there.
fn make_directory(directory: &Path) -> Result<(), SocketError> {
    match std::fs::DirBuilder::new().mode(0o750).create(directory) {
        Ok(()) => tracing::info!(path = %directory.display(), "made the directory"),
        // Which error an existing one gives depends on what it is, such as the root of a read-only mount.
        Err(_) if directory.symlink_metadata().is_ok() => {}
        Err(source) => return Err(io_error("make the directory", directory, source)),
    }
    let meta = std::fs::symlink_metadata(directory).map_err(|source| io_error("examine", directory, source))?;
    if !meta.is_dir() {
        return Err(SocketError::NotADirectory { path: directory.to_owned(), found: kind(&meta) });
    }
    let (owner, mode) = (meta.uid(), meta.mode() & 0o7777);
    let trusted = owner == 0 || owner == rustix::process::geteuid().as_raw();
    let shared = mode & 0o022 != 0 && mode & 0o1000 == 0;
    if !trusted || shared {
        return Err(SocketError::UnsafeDirectory { path: directory.to_owned(), owner, mode });
    }
    Ok(())
}

fn remove_stale(path: &SocketPath) -> Result<(), SocketError> {
    let meta = match std::fs::symlink_metadata(path.path()) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(io_error("examine", path.path(), source)),
    };
    if !meta.file_type().is_socket() {
        return Err(SocketError::InTheWay { path: path.path().to_owned(), found: kind(&meta) });
    }
    let address = SocketAddrUnix::new(path.path()).map_err(path.failed("name a socket"))?;
    let probe = unix_socket().map_err(path.failed("make a socket to probe"))?;
    match rustix::net::connect(&probe, &address) {
        Err(Errno::CONNREFUSED) => {
            tracing::info!(path = path.as_str(), "removing the socket of an earlier run");
            std::fs::remove_file(path.path()).map_err(|source| io_error("remove", path.path(), source))
        }
        Err(Errno::NOENT) => Ok(()),
        // A full queue of connections is somebody's as well.
        Ok(()) | Err(Errno::AGAIN | Errno::INPROGRESS) => Err(SocketError::InUse { path: path.path().to_owned() }),
        Err(error) => Err(path.failed("probe")(error)),
    }
}

fn kind(meta: &std::fs::Metadata) -> &'static str {
    let kind = meta.file_type();
    match () {
        () if kind.is_symlink() => "a symlink",
        () if kind.is_dir() => "a directory",
        () if kind.is_file() => "a file",
        () if kind.is_socket() => "a socket",
        () => "a special file",
    }
}

#[cfg(test)]
mod tests;
