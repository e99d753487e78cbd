//! The kernel module's parameters as a container sees them: without leave to make device nodes.
//!
//! `nvidia-smi` and CUDA make the nodes of all GPUs where `/proc/driver/nvidia/params` says `ModifyDeviceFiles: 1` and the
//! container may (`CAP_MKNOD`). They can't be opened, but show GPUs that aren't the container's.
use std::path::Path;

use rustix::{
    io::Errno,
    mount::{MountFlags, mount_bind, mount_remount},
};

use super::rootfs::{Error as RootError, Rootfs, by_descriptor};

const PARAMS: &str = "/proc/driver/nvidia/params";

/// Why a container would see the host's parameters.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Root(#[from] RootError),
    #[error("{from} can't be mounted over {PARAMS} in the container: {source}")]
    Mount { from: String, source: Errno },
}

/// Mounts `masked`, a file of the host, over the parameters, read-only; a container without them needs nothing.
pub(crate) fn mask(root: &Rootfs, masked: &Path) -> Result<(), Error> {
    let failed = |source| Error::Mount { from: masked.display().to_string(), source };
    let Some(there) = root.mount_point(PARAMS)? else { return Ok(()) };
    mount_bind(masked, by_descriptor(&there)).map_err(failed)?;
    // The mount that is now on top, whose flags are still those of the host's file system.
    let Some(there) = root.mount_point(PARAMS)? else { return Ok(()) };
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount_remount(by_descriptor(&there), flags, c"").map_err(failed)
}
