//! The lock file that driver instances share, and the count of changes in it.
use std::{
    fs::{File, TryLockError},
    io,
    os::unix::fs::FileExt as _,
    time::{Duration, Instant},
};

use super::Error;
use crate::fault::{self, Point};

/// A longer wait for the lock means that its holder is stopped, and not that it is slow.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_micros(200);

/// The count of changes under the lock.
pub(super) struct Operation<'a> {
    pub(super) count: u64,
    pub(super) lock: &'a File,
    pub(super) path: &'a str,
}

impl Operation<'_> {
    /// Told before the files change: a process killed in between costs others one needless reading, never a missed one.
    pub(super) fn announce(&mut self) -> Result<(), Error> {
        let count = self.count.wrapping_add(1);
        self.lock
            .write_all_at(&count.to_le_bytes(), 0)
            .and_then(|()| fault::step(Point::ChangeAnnounced))
            .map_err(|source| Error::Lock { path: self.path.to_owned(), source })?;
        self.count = count;
        Ok(())
    }
}

/// Takes the lock, which another instance holds for a few file operations at most.
pub(super) fn take(lock: &File) -> io::Result<()> {
    let end = Instant::now() + LONGEST_WAIT;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < end => std::thread::sleep(PAUSE),
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::other(
                    "another instance of the driver has held it for too long; is it stopped?",
                ));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

pub(super) fn read_count(lock: &File) -> io::Result<u64> {
    let mut bytes = [0; 8];
    let length = lock.read_at(&mut bytes, 0)?;
    Ok(if length == bytes.len() { u64::from_le_bytes(bytes) } else { 0 })
}
