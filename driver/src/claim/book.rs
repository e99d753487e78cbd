//! The records of all claims on this node: who holds which device.
//!
//! The files are the truth. The book in memory is an index of them, and another driver instance (a rolling update) may
//! change them at any time; so each operation runs under a lock file which also counts changes: a count that isn't ours
//! means that the index is read anew. At rest and with one instance nothing is read twice.
mod index;
mod lock;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    path::Path,
    sync::Arc,
};

use aliquot_model::{DeviceName, GpuUuid};
use aliquot_params::TimeSlice;
use dra_plugin::ClaimUid;

use owned_dir::{Access, Dir};

use crate::{
    fault::{self, Point},
    offer::Holding,
};

use super::{
    file::{self, Bad, file_name, uid_of},
    hold::{self, Clash},
    quarantine::Quarantined,
    record::{self, Glimpse, Held, Record, Room, State},
};
use index::{Index, Key};
use lock::{Operation, read_count, take};

const LOCK: &str = "lock";

/// Who holds what.
#[derive(Debug)]
pub(super) struct Book {
    dir: Dir,
    lock: File,
    boot_id: String,
    /// The count of changes that the index stands for.
    seen: Option<u64>,
    index: Index,
}

/// Why the book can't do as asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory or a file in it.
    #[error(transparent)]
    Dir(#[from] owned_dir::Error),
    /// The lock that driver instances share.
    #[error("the lock of {path} can't be taken: {source}")]
    Lock {
        /// The directory.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// It could not be read back.
    #[error("the record would have {bytes} bytes, more than the {} that are read back", record::LARGEST)]
    TooLarge {
        /// How many.
        bytes: usize,
    },
    /// The CDI spec that goes with a record.
    #[error(transparent)]
    Spec(#[from] cdi_spec::StoreError),
    /// A record can't be written as JSON.
    #[error("a record can't be written")]
    Encode(#[from] serde_json::Error),
}

/// What came of a reservation.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reservation {
    /// The devices are spoken for, and the record is on disk.
    Held,
    /// Others are in the way.
    Clashes(Clash),
}

/// What came of marking a claim as prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Commit {
    /// It is, by this instance or by another one.
    Done,
    /// Somebody has unprepared it meanwhile, or gives it other devices.
    Gone,
    /// It isn't, as nobody waits for it any more.
    Unheard,
}

/// What one record changes in the time slice of a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) gpu: GpuUuid,
    pub(super) without: TimeSlice,
    pub(super) with: TimeSlice,
}

impl Book {
    #[cfg(test)]
    pub(super) fn open(path: &Path, boot_id: String) -> Result<Self, Error> {
        Self::open_and_clean(path, boot_id, |_| Ok(()))
    }

    /// Opens the records; those of another boot are removed once `first` is done for them, since all that they describe has
    /// ended with it.
    pub(super) fn open_and_clean(
        path: &Path,
        boot_id: String,
        first: impl Fn(&ClaimUid) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let dir = Dir::open(path)?.watched(fault::records);
        fault::point(Point::RecordsDirMade);
        let lock = dir.lock_file(LOCK)?;
        let mut book = Self { dir, lock, boot_id, seen: None, index: Index::default() };
        book.locked(|book, _| book.clean(first))?;
        Ok(book)
    }

    /// The claim's record.
    pub(super) fn find(&mut self, uid: &ClaimUid) -> Result<Option<Arc<Record>>, Error> {
        self.locked(|book, _| Ok(book.index.records.get(uid).cloned()))
    }

    /// Whether there is a file for the claim, readable or not.
    pub(super) fn mentions(&self, uid: &ClaimUid) -> bool {
        !matches!(self.dir.read(&file_name(uid), record::LARGEST), Ok(None))
    }

    /// All records.
    pub(super) fn all(&mut self) -> Result<Vec<Arc<Record>>, Error> {
        self.locked(|book, _| Ok(book.index.records.values().cloned().collect()))
    }

    /// The files that can't be used as records.
    ///
    /// Nobody tells of what an administrator does to one of them, so these are looked at each time.
    pub(super) fn quarantined(&mut self) -> Result<Vec<Quarantined>, Error> {
        self.locked(|book, _| {
            let is_mended = |uid: &ClaimUid| book.read(&file_name(uid), uid).is_ok();
            if book.index.quarantined.keys().any(is_mended) {
                book.load()?;
            }
            Ok(book.index.quarantined.values().cloned().collect())
        })
    }

    /// What is held of each device.
    pub(super) fn holdings(&mut self) -> Result<Vec<Holding>, Error> {
        self.locked(|book, _| {
            let mut held: BTreeMap<(&GpuUuid, &DeviceName), Room> = BTreeMap::new();
            for device in book.index.using().flat_map(|record| &record.devices).filter(|held| !held.admin_access) {
                let taken = held.entry((&device.gpu, &device.device)).or_default();
                *taken = taken.plus(device.share.map(|share| share.takes).unwrap_or_default());
            }
            let holding = |((gpu, device), Room { shares, memory }): ((&GpuUuid, &DeviceName), Room)| Holding {
                gpu: gpu.clone(),
                device: device.clone(),
                shares,
                memory,
            };
            Ok(held.into_iter().map(holding).collect())
        })
    }

    /// Writes the record unless what other claims hold is in its way.
    ///
    /// Checking and writing happen under one lock, so of two claims (and of two driver instances) one wins. A claim that
    /// another instance has prepared meanwhile stays prepared: its user may have been told.
    pub(super) fn reserve(&mut self, record: &Arc<Record>) -> Result<Reservation, Error> {
        self.locked(|book, change| {
            if let Some(clash) = hold::clash(record, &book.index.beside(record)) {
                return Ok(Reservation::Clashes(clash));
            }
            if !book.is_prepared(record.claim.uid(), &record.devices) {
                change.announce()?;
                book.put(Arc::clone(record))?;
            }
            Ok(Reservation::Held)
        })
    }

    /// Marks a reserved claim as prepared, if somebody waits for that still.
    ///
    /// That is asked under the lock: while it is held, no other instance can unprepare the claim, and be told that it is.
    pub(super) fn commit(&mut self, record: &Record, is_heard: impl FnOnce() -> bool) -> Result<Commit, Error> {
        self.locked(|book, change| match book.index.records.get(record.claim.uid()) {
            Some(now) if now.devices != record.devices => Ok(Commit::Gone),
            None => Ok(Commit::Gone),
            Some(now) if now.state == State::Prepared => Ok(Commit::Done),
            Some(_) if !is_heard() => Ok(Commit::Unheard),
            Some(now) => {
                let prepared = Record { state: State::Prepared, ..Record::clone(now) };
                change.announce()?;
                book.put(Arc::new(prepared))?;
                Ok(Commit::Done)
            }
        })
    }

    /// Says of a prepared claim that its side effects may be there or not.
    pub(super) fn unsettle(&mut self, uid: &ClaimUid) -> Result<(), Error> {
        self.locked(|book, change| match book.index.records.get(uid) {
            Some(now) if now.state == State::Prepared => {
                let unsettled = Record { state: State::Preparing, ..Record::clone(now) };
                change.announce()?;
                book.put(Arc::new(unsettled))
            }
            _ => Ok(()),
        })
    }

    /// Forgets a claim once `first` is done; one that isn't known counts as forgotten.
    pub(super) fn release(&mut self, uid: &ClaimUid, first: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
        self.locked(|book, change| {
            first()?;
            book.strike(uid, change)
        })
    }

    /// The same for a record whose devices were not prepared after all; false if another instance has prepared the claim, or
    /// gives it other devices.
    pub(super) fn abandon(
        &mut self,
        record: &Record,
        first: impl FnOnce() -> Result<(), Error>,
    ) -> Result<bool, Error> {
        let uid = record.claim.uid();
        self.locked(|book, change| {
            if book.index.records.get(uid).is_some_and(|now| is_anothers(now, record)) {
                return Ok(false);
            }
            first()?;
            book.strike(uid, change).map(|()| true)
        })
    }

    /// The same for a claim that was judged by this record, or by a file that is none; false if that has changed since.
    pub(super) fn release_if_still(
        &mut self,
        uid: &ClaimUid,
        judged: Option<&Record>,
        first: impl FnOnce() -> Result<(), Error>,
    ) -> Result<bool, Error> {
        self.locked(|book, change| {
            if book.index.records.get(uid).map(Arc::as_ref) != judged {
                return Ok(false);
            }
            first()?;
            book.strike(uid, change).map(|()| true)
        })
    }

    /// Does something for a record whose devices are the claim's still, by its file; none where they aren't. Until it is
    /// done no other instance changes that.
    ///
    /// A file that says anything else than the index is one that somebody changed by hand: the index is then read anew.
    pub(super) fn while_held<T>(
        &mut self,
        record: &Record,
        act: impl FnOnce() -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        let uid = record.claim.uid();
        self.locked(|book, _| match book.read(&file_name(uid), uid) {
            Ok(Some(now)) if now.boot_id == book.boot_id && now.devices == record.devices => act().map(Some),
            _ => book.load().map(|()| None),
        })
    }

    /// Does something that no other instance is to do at the same time.
    pub(super) fn alone<T>(&mut self, act: impl FnOnce(&Self) -> Result<T, Error>) -> Result<T, Error> {
        self.locked(|book, _| act(book))
    }

    /// Whether these are the claim's devices, and prepared.
    fn is_prepared(&self, uid: &ClaimUid, devices: &[Held]) -> bool {
        self.index.records.get(uid).is_some_and(|record| record.state == State::Prepared && record.devices == devices)
    }

    /// What the time slices of these GPUs are to be without the record, and with it.
    pub(super) fn time_slices(&mut self, record: &Record, gpus: &BTreeSet<&GpuUuid>) -> Result<Vec<Change>, Error> {
        self.locked(|book, _| {
            let mut others = book.index.beside(record);
            others.retain(|other| other.claim.uid() != record.claim.uid());
            let all = [others.as_slice(), &[record]].concat();
            let slice = |gpu: &&GpuUuid| Change {
                gpu: (*gpu).clone(),
                without: hold::time_slice(&others, gpu),
                with: hold::time_slice(&all, gpu),
            };
            Ok(gpus.iter().map(slice).collect())
        })
    }

    /// What the time slice of a GPU is to be.
    pub(super) fn time_slice(&mut self, gpu: &GpuUuid) -> Result<TimeSlice, Error> {
        self.locked(|book, _| {
            let users = book.index.users.get(&Key::Gpu(gpu.clone())).into_iter().flatten();
            let records: Vec<&Record> = users.filter_map(|uid| book.index.records.get(uid)).map(Arc::as_ref).collect();
            Ok(hold::time_slice(&records, gpu))
        })
    }

    /// The records of those who hold something, other than for administration.
    pub(super) fn using(&mut self) -> Result<Vec<Arc<Record>>, Error> {
        self.locked(|book, _| Ok(book.index.using().cloned().collect()))
    }

    /// The records of those who hold shares.
    pub(super) fn sharing(&mut self) -> Result<Vec<Arc<Record>>, Error> {
        let shares = |record: &&Arc<Record>| record.devices.iter().any(|held| held.share.is_some());
        self.locked(|book, _| Ok(book.index.using().filter(shares).cloned().collect()))
    }

    fn put(&mut self, record: Arc<Record>) -> Result<(), Error> {
        let bytes = record.encode()?;
        if bytes.len() as u64 > record::LARGEST {
            return Err(Error::TooLarge { bytes: bytes.len() });
        }
        self.dir.write(&file_name(record.claim.uid()), &bytes, Access::Private)?;
        self.index.forget(record.claim.uid());
        self.index.insert(record);
        Ok(())
    }

    fn strike(&mut self, uid: &ClaimUid, change: &mut Operation) -> Result<(), Error> {
        change.announce()?;
        self.dir.remove(&file_name(uid))?;
        self.index.forget(uid);
        Ok(())
    }

    fn locked<T>(&mut self, act: impl FnOnce(&mut Self, &mut Operation) -> Result<T, Error>) -> Result<T, Error> {
        let path = self.dir.path().display().to_string();
        let failed = |source| Error::Lock { path: path.clone(), source };
        let lock = self.lock.try_clone().map_err(failed)?;
        take(&lock).map_err(failed)?;
        let result = (|| {
            let mut change = Operation { count: read_count(&lock).map_err(failed)?, lock: &lock, path: &path };
            if self.seen != Some(change.count) {
                self.load()?;
                self.seen = Some(change.count);
            }
            let result = act(self, &mut change);
            // After a failure the index may be ahead of the files: read them again next time.
            self.seen = result.is_ok().then_some(change.count);
            result
        })();
        let _ = lock.unlock();
        result
    }

    /// Reads every record of this boot.
    fn load(&mut self) -> Result<(), Error> {
        self.index = Index::default();
        for name in self.dir.names()? {
            let Some(uid) = uid_of(&name) else { continue };
            match self.read(&name, &uid) {
                Ok(Some(record)) if record.boot_id == self.boot_id => self.index.insert(Arc::new(record)),
                Ok(_) => {}
                Err(bad) => {
                    let Bad { reason, glimpse: Glimpse { whose, is_intact, devices } } = *bad;
                    let file = self.dir.path().join(&name);
                    self.index
                        .quarantined
                        .insert(uid.clone(), Quarantined { uid, file, reason, whose, is_intact, devices });
                }
            }
        }
        Ok(())
    }

    fn read(&self, name: &str, uid: &ClaimUid) -> Result<Option<Record>, Box<Bad>> {
        file::read(&self.dir, name, uid)
    }

    /// Removes records of other boots and what a killed process left half-written.
    fn clean(&mut self, first: impl Fn(&ClaimUid) -> Result<(), Error>) -> Result<(), Error> {
        for name in self.dir.names()? {
            let ended = uid_of(&name)
                .filter(|uid| matches!(self.read(&name, uid), Ok(Some(record)) if record.boot_id != self.boot_id));
            if let Some(uid) = &ended {
                first(uid)?;
            }
            if ended.is_some() || owned_dir::unfinished(&name).is_some() {
                self.dir.remove(&name)?;
                tracing::info!(file = name, "removed: it is of an earlier boot or was never finished");
            }
        }
        Ok(())
    }
}

/// Whether what is in the book now is not what one prepare has put there, but of another one.
pub(super) fn is_anothers(now: &Record, ours: &Record) -> bool {
    now.state == State::Prepared || now.devices != ours.devices
}

#[cfg(test)]
mod tests;
