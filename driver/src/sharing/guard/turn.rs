//! Of the drivers that run on a node at a time (a rolling update), one acts; the others only measure.
use std::{
    fs::{File, TryLockError},
    path::Path,
};

use owned_dir::{Dir, Error};

const LOCK: &str = "guard";

/// The right to act, which a driver has from the first time that nobody else has it until its end.
#[derive(Debug)]
pub struct Turn {
    lock: File,
    is_ours: bool,
    is_broken: bool,
}

impl Turn {
    /// Stands in line with all drivers that were given the same directory.
    pub fn open(run: &Path) -> Result<Self, Error> {
        let lock = Dir::open(run)?.lock_file(LOCK)?;
        Ok(Self { lock, is_ours: false, is_broken: false })
    }

    /// Whether this driver is to act. The kernel passes the lock on, however its holder ends.
    pub(super) fn is_ours(&mut self) -> bool {
        if self.is_ours {
            return true;
        }
        match self.lock.try_lock() {
            Ok(()) => self.is_ours = true,
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => {
                if !std::mem::replace(&mut self.is_broken, true) {
                    tracing::warn!(%error, "the guard's lock can't be taken; shares are measured, and nothing is done");
                }
            }
        }
        self.is_ours
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_driver_has_the_turn_until_it_ends_and_then_another() {
        let dir = tempfile::tempdir().unwrap();
        let turn = || Turn::open(&dir.path().join("run")).unwrap();
        let (mut old, mut new, mut third) = (turn(), turn(), turn());
        assert!(old.is_ours() && !new.is_ours() && old.is_ours());
        drop(old);
        assert!(new.is_ours() && !third.is_ours());
    }
}
