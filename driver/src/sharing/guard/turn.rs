//! Of the drivers that run on a node at a time (a rolling update), one acts; the others only look on.
use std::{
    fs::{File, TryLockError},
    path::Path,
};

use owned_dir::{Dir, Error};

/// The right to act, which a driver has from the first time that nobody else has it until its end.
#[derive(Debug)]
pub struct Turn {
    lock: File,
    what: &'static str,
    is_ours: bool,
    is_broken: bool,
}

impl Turn {
    /// Stands in line, for one thing to do, with all drivers that were given the same directory.
    pub fn open(run: &Path, what: &'static str) -> Result<Self, Error> {
        let lock = Dir::open(run)?.lock_file(what)?;
        Ok(Self { lock, what, is_ours: false, is_broken: false })
    }

    /// Whether this driver is to act. The kernel passes the lock on, however its holder ends.
    pub(crate) fn is_ours(&mut self) -> bool {
        if self.is_ours {
            return true;
        }
        match self.lock.try_lock() {
            Ok(()) => self.is_ours = true,
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => {
                if !std::mem::replace(&mut self.is_broken, true) {
                    tracing::warn!(%error, lock = self.what, "the lock can't be taken, so that this driver only looks on");
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
        let turn = || Turn::open(&dir.path().join("run"), "guard").unwrap();
        let (mut old, mut new, mut third) = (turn(), turn(), turn());
        assert!(old.is_ours() && !new.is_ours() && old.is_ours());
        drop(old);
        assert!(new.is_ours() && !third.is_ours());
        assert!(Turn::open(&dir.path().join("run"), "sweep").unwrap().is_ours(), "another thing is another turn");
    }
}
