//! One driver at a time has a node's sockets; instances of a rolling update have sockets of their own.
use std::{
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use owned_dir::Dir;

const LOCK: &str = "instance";

/// Why this driver must not serve here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Somebody serves already.
    #[error(
        "another aliquot-driver serves this node, and both would have the same sockets ({} is locked): end one of them, or \
         give each the UID of its pod (--pod-uid), as in a DaemonSet that is updated without a gap", path.display()
    )]
    Taken {
        /// The lock.
        path: PathBuf,
    },
    /// The lock can't be asked.
    #[error("{} can't be locked", path.display())]
    Lock {
        /// The lock.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The directory.
    #[error("--run-root can't be used")]
    Dir(#[from] owned_dir::Error),
}

/// The right to the node's sockets, until it is dropped or the process ends in any way.
#[derive(Debug)]
pub(crate) struct Sole {
    _lock: Option<File>,
}

/// Takes the right to the sockets in `run`'s node before anything there is touched; a pod's own sockets need none.
pub(crate) fn alone(run: &Path, pod_uid: Option<&str>) -> Result<Sole, Error> {
    if pod_uid.is_some() {
        return Ok(Sole { _lock: None });
    }
    let (lock, path) = (Dir::open(run)?.lock_file(LOCK)?, run.join(LOCK));
    match lock.try_lock() {
        Ok(()) => Ok(Sole { _lock: Some(lock) }),
        Err(TryLockError::WouldBlock) => Err(Error::Taken { path }),
        Err(TryLockError::Error(source)) => Err(Error::Lock { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_driver_without_a_pod_is_refused_and_one_of_a_pod_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        let first = alone(&run, None).unwrap();
        let error = alone(&run, None).unwrap_err().to_string();
        assert!(error.contains("another aliquot-driver") && error.contains("--pod-uid"), "{error}");
        alone(&run, Some("u1")).unwrap();
        drop(first);
        alone(&run, None).unwrap();
    }
}
