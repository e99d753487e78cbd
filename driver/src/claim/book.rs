//! The records of all claims on this node: who holds which device.
//!
//! The files are the truth. The book in memory is an index of them, and another driver instance (a rolling update) may
//! change them at any time; so each operation runs under a lock file which also counts changes: a count that isn't ours
//! means that the index is read anew. At rest and with one instance nothing is read twice.
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{File, TryLockError},
    io,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
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

const LOCK: &str = "lock";
/// A longer wait for the lock means that its holder is stopped, and not that it is slow.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_micros(200);

/// Who holds what.
#[derive(Debug)]
pub(super) struct Book {
    dir: Dir,
    lock: File,
    boot_id: String,
    /// The count of changes that the index stands for.
    seen: Option<u64>,
    records: HashMap<ClaimUid, Arc<Record>>,
    /// Files that can't be used as records: what they hold stays held.
    quarantined: BTreeMap<ClaimUid, Quarantined>,
    /// The claims that hold something of a GPU, other than for administration, so that a reservation looks at these only.
    users: BTreeMap<GpuUuid, BTreeSet<ClaimUid>>,
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
        first: impl Fn(&ClaimUid) -> Result<(), cdi_spec::StoreError>,
    ) -> Result<Self, Error> {
        let dir = Dir::open(path)?.watched(fault::records);
        fault::point(Point::RecordsDirMade);
        let lock = dir.lock_file(LOCK)?;
        let (records, quarantined, users) = (HashMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut book = Self { dir, lock, boot_id, seen: None, records, quarantined, users };
        book.locked(|book, _| book.clean(first))?;
        Ok(book)
    }

    /// The claim's record.
    pub(super) fn find(&mut self, uid: &ClaimUid) -> Result<Option<Arc<Record>>, Error> {
        self.locked(|book, _| Ok(book.records.get(uid).cloned()))
    }

    /// Whether there is a file for the claim, readable or not.
    pub(super) fn mentions(&self, uid: &ClaimUid) -> bool {
        !matches!(self.dir.read(&file_name(uid), record::LARGEST), Ok(None))
    }

    /// All records.
    pub(super) fn all(&mut self) -> Result<Vec<Arc<Record>>, Error> {
        self.locked(|book, _| Ok(book.records.values().cloned().collect()))
    }

    /// The files that can't be used as records.
    ///
    /// Nobody tells of what an administrator does to one of them, so these are looked at each time.
    pub(super) fn quarantined(&mut self) -> Result<Vec<Quarantined>, Error> {
        self.locked(|book, _| {
            let is_mended = |uid: &ClaimUid| book.read(&file_name(uid), uid).is_ok();
            if book.quarantined.keys().any(is_mended) {
                book.load()?;
            }
            Ok(book.quarantined.values().cloned().collect())
        })
    }

    /// What is held of each device.
    pub(super) fn holdings(&mut self) -> Result<Vec<Holding>, Error> {
        self.locked(|book, _| {
            let mut held: BTreeMap<(&GpuUuid, &DeviceName), Room> = BTreeMap::new();
            for device in book.using().flat_map(|record| &record.devices).filter(|held| !held.admin_access) {
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
            if let Some(clash) = hold::clash(record, &book.beside(record)) {
                return Ok(Reservation::Clashes(clash));
            }
            if !book.is_prepared(record.claim.uid(), &record.devices) {
                change.announce()?;
                book.put(Arc::clone(record))?;
            }
            Ok(Reservation::Held)
        })
    }

    /// Marks a reserved claim as prepared; false if somebody unprepared it meanwhile.
    pub(super) fn commit(&mut self, uid: &ClaimUid) -> Result<bool, Error> {
        self.locked(|book, change| match book.records.get(uid) {
            None => Ok(false),
            Some(record) if record.state == State::Preparing => {
                let record = Record { state: State::Prepared, ..Record::clone(record) };
                change.announce()?;
                book.put(Arc::new(record))?;
                Ok(true)
            }
            Some(_) => Ok(true),
        })
    }

    /// Forgets a claim once `first` is done; one that isn't known counts as forgotten.
    pub(super) fn release(
        &mut self,
        uid: &ClaimUid,
        first: impl FnOnce() -> Result<(), cdi_spec::StoreError>,
    ) -> Result<(), Error> {
        self.locked(|book, change| {
            first()?;
            book.strike(uid, change)
        })
    }

    /// The same for a record whose devices were not prepared after all; false if another instance has prepared them.
    pub(super) fn abandon(
        &mut self,
        record: &Record,
        first: impl FnOnce() -> Result<(), cdi_spec::StoreError>,
    ) -> Result<bool, Error> {
        let uid = record.claim.uid();
        self.locked(|book, change| {
            if book.is_prepared(uid, &record.devices) {
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
        first: impl FnOnce() -> Result<(), cdi_spec::StoreError>,
    ) -> Result<bool, Error> {
        self.locked(|book, change| {
            if book.records.get(uid).map(Arc::as_ref) != judged {
                return Ok(false);
            }
            first()?;
            book.strike(uid, change).map(|()| true)
        })
    }

    /// Does something that no other instance is to do at the same time.
    pub(super) fn alone<T>(&mut self, act: impl FnOnce(&Self) -> Result<T, Error>) -> Result<T, Error> {
        self.locked(|book, _| act(book))
    }

    /// Whether these are the claim's devices, and prepared.
    fn is_prepared(&self, uid: &ClaimUid, devices: &[Held]) -> bool {
        self.records.get(uid).is_some_and(|record| record.state == State::Prepared && record.devices == devices)
    }

    /// What the time slices of these GPUs are to be without the record, and with it.
    pub(super) fn time_slices(&mut self, record: &Record, gpus: &BTreeSet<&GpuUuid>) -> Result<Vec<Change>, Error> {
        self.locked(|book, _| {
            let mut others = book.beside(record);
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

    /// The records of those who hold shares.
    pub(super) fn sharing(&mut self) -> Result<Vec<Arc<Record>>, Error> {
        let shares = |record: &&Arc<Record>| record.devices.iter().any(|held| held.share.is_some());
        self.locked(|book, _| Ok(book.using().filter(shares).cloned().collect()))
    }

    /// The records of those who hold something at all.
    fn using(&self) -> impl Iterator<Item = &Arc<Record>> {
        let uids: BTreeSet<&ClaimUid> = self.users.values().flatten().collect();
        uids.into_iter().filter_map(|uid| self.records.get(uid))
    }

    /// The records of those who hold something of a GPU that this one holds something of.
    fn beside(&self, record: &Record) -> Vec<&Record> {
        let users = record.devices.iter().filter_map(|held| self.users.get(&held.gpu)).flatten();
        let uids: BTreeSet<&ClaimUid> = users.collect();
        uids.into_iter().filter_map(|uid| self.records.get(uid)).map(Arc::as_ref).collect()
    }

    fn put(&mut self, record: Arc<Record>) -> Result<(), Error> {
        let bytes = record.encode()?;
        if bytes.len() as u64 > record::LARGEST {
            return Err(Error::TooLarge { bytes: bytes.len() });
        }
        self.dir.write(&file_name(record.claim.uid()), &bytes, Access::Private)?;
        self.forget(record.claim.uid());
        self.index(record);
        Ok(())
    }

    fn strike(&mut self, uid: &ClaimUid, change: &mut Operation) -> Result<(), Error> {
        change.announce()?;
        self.dir.remove(&file_name(uid))?;
        self.forget(uid);
        Ok(())
    }

    fn index(&mut self, record: Arc<Record>) {
        for held in record.devices.iter().filter(|held| !held.admin_access) {
            self.users.entry(held.gpu.clone()).or_default().insert(record.claim.uid().clone());
        }
        self.records.insert(record.claim.uid().clone(), record);
    }

    fn forget(&mut self, uid: &ClaimUid) {
        self.quarantined.remove(uid);
        if let Some(record) = self.records.remove(uid) {
            for held in &record.devices {
                if let Some(users) = self.users.get_mut(&held.gpu) {
                    users.remove(uid);
                    if users.is_empty() {
                        self.users.remove(&held.gpu);
                    }
                }
            }
        }
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
        self.records.clear();
        self.quarantined.clear();
        self.users.clear();
        for name in self.dir.names()? {
            let Some(uid) = uid_of(&name) else { continue };
            match self.read(&name, &uid) {
                Ok(Some(record)) if record.boot_id == self.boot_id => self.index(Arc::new(record)),
                Ok(_) => {}
                Err(bad) => {
                    let Bad { reason, glimpse: Glimpse { whose, is_intact, devices } } = *bad;
                    let file = self.dir.path().join(&name);
                    self.quarantined.insert(uid.clone(), Quarantined { uid, file, reason, whose, is_intact, devices });
                }
            }
        }
        Ok(())
    }

    fn read(&self, name: &str, uid: &ClaimUid) -> Result<Option<Record>, Box<Bad>> {
        file::read(&self.dir, name, uid)
    }

    /// Removes records of other boots and what a killed process left half-written.
    fn clean(&mut self, first: impl Fn(&ClaimUid) -> Result<(), cdi_spec::StoreError>) -> Result<(), Error> {
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

/// The count of changes under the lock.
struct Operation<'a> {
    count: u64,
    lock: &'a File,
    path: &'a str,
}

impl Operation<'_> {
    /// Told before the files change: a process killed in between costs others one needless reading, never a missed one.
    fn announce(&mut self) -> Result<(), Error> {
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
fn take(lock: &File) -> io::Result<()> {
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

fn read_count(lock: &File) -> io::Result<u64> {
    let mut bytes = [0; 8];
    let length = lock.read_at(&mut bytes, 0)?;
    Ok(if length == bytes.len() { u64::from_le_bytes(bytes) } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::{
        super::record::tests::{record, share},
        *,
    };

    fn open(dir: &tempfile::TempDir) -> Book {
        Book::open(&dir.path().join("claims"), "boot-1".into()).unwrap()
    }

    fn uid(text: &str) -> ClaimUid {
        ClaimUid::new(text).unwrap()
    }

    #[test]
    fn of_two_claims_for_one_device_the_second_hears_who_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut book = open(&dir);
        assert_eq!(book.reserve(&record("u1", &["gpu-0"]).into()).unwrap(), Reservation::Held);
        let taken = book.reserve(&record("u2", &["gpu-1", "gpu-0"]).into()).unwrap();
        assert!(
            matches!(taken, Reservation::Clashes(Clash::Held { device, by, .. }) if device.as_str() == "gpu-0" && by.uid().as_str() == "u1")
        );
        assert!(book.find(&uid("u2")).unwrap().is_none());
        book.release(&uid("u1"), || Ok(())).unwrap();
        assert_eq!(book.reserve(&record("u2", &["gpu-1", "gpu-0"]).into()).unwrap(), Reservation::Held);
    }

    #[test]
    fn two_instances_see_each_others_changes() {
        let dir = tempfile::tempdir().unwrap();
        let (mut old, mut new) = (open(&dir), open(&dir));
        old.reserve(&record("u1", &["gpu-0"]).into()).unwrap();
        assert!(matches!(new.reserve(&record("u2", &["gpu-0"]).into()).unwrap(), Reservation::Clashes(_)));
        new.release(&uid("u1"), || Ok(())).unwrap();
        assert!(old.find(&uid("u1")).unwrap().is_none());
        assert_eq!(old.reserve(&record("u3", &["gpu-0"]).into()).unwrap(), Reservation::Held);
        assert!(old.commit(&uid("u3")).unwrap());
        assert_eq!(new.find(&uid("u3")).unwrap().unwrap().state, State::Prepared);
    }

    #[test]
    fn ten_shares_are_held_and_an_eleventh_only_when_one_leaves() {
        let dir = tempfile::tempdir().unwrap();
        let mut book = open(&dir);
        for n in 0..10 {
            assert_eq!(book.reserve(&share(&format!("u{n}"), "gpu-0", 1, 8).into()).unwrap(), Reservation::Held);
        }
        let more = Arc::new(share("u10", "gpu-0", 1, 8));
        assert!(matches!(book.reserve(&more).unwrap(), Reservation::Clashes(Clash::Full { .. })));
        book.release(&uid("u3"), || Ok(())).unwrap();
        assert_eq!(open(&dir).reserve(&more).unwrap(), Reservation::Held);
    }

    #[test]
    fn what_is_held_of_a_device_is_the_sum_of_its_shares() {
        let dir = tempfile::tempdir().unwrap();
        let mut book = open(&dir);
        book.reserve(&share("u1", "gpu-0", 1, 8).into()).unwrap();
        book.reserve(&share("u2", "gpu-0", 2, 5).into()).unwrap();
        book.reserve(&record("u3", &["gpu-1"]).into()).unwrap();
        let mut admin = record("u4", &["gpu-2"]);
        admin.devices[0].admin_access = true;
        book.reserve(&admin.into()).unwrap();
        let held: Vec<_> =
            book.holdings().unwrap().into_iter().map(|held| (held.shares, held.memory.bytes() >> 30)).collect();
        assert_eq!(held, [(3, 13), (0, 0)]);
    }

    #[test]
    fn what_one_instance_has_prepared_another_neither_takes_back_nor_abandons() {
        let dir = tempfile::tempdir().unwrap();
        let (mut slow, mut new) = (open(&dir), open(&dir));
        let claim = Arc::new(record("u1", &["gpu-0"]));
        slow.reserve(&claim).unwrap();
        new.reserve(&claim).unwrap();
        assert!(new.commit(&uid("u1")).unwrap());
        slow.reserve(&claim).unwrap();
        assert_eq!(new.find(&uid("u1")).unwrap().unwrap().state, State::Prepared);
        assert!(!slow.abandon(&claim, || panic!("the spec is another's")).unwrap());
        // Allocated anew, it has another's devices no more.
        let anew = Arc::new(record("u1", &["gpu-1"]));
        slow.reserve(&anew).unwrap();
        assert_eq!(new.find(&uid("u1")).unwrap().unwrap().state, State::Preparing);
        assert!(slow.abandon(&anew, || Ok(())).unwrap());
        assert!(new.find(&uid("u1")).unwrap().is_none());
    }

    #[test]
    fn records_of_another_boot_are_gone() {
        let dir = tempfile::tempdir().unwrap();
        open(&dir).reserve(&record("u1", &["gpu-0"]).into()).unwrap();
        let mut book = Book::open(&dir.path().join("claims"), "boot-2".into()).unwrap();
        assert!(book.all().unwrap().is_empty());
        assert!(!dir.path().join("claims/u1.json").exists());
    }

    #[test]
    fn a_broken_record_costs_its_own_claim_and_heals_when_it_is_prepared_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut book = open(&dir);
        book.reserve(&record("u1", &["gpu-0"]).into()).unwrap();
        book.reserve(&record("u2", &["gpu-1"]).into()).unwrap();
        std::fs::write(dir.path().join("claims/u1.json"), "{").unwrap();
        let mut book = open(&dir);
        assert!(book.find(&uid("u1")).unwrap().is_none());
        assert!(book.find(&uid("u2")).unwrap().is_some());
        assert_eq!(book.quarantined().unwrap().len(), 1);
        book.reserve(&record("u1", &["gpu-0"]).into()).unwrap();
        assert!(book.quarantined().unwrap().is_empty());
        assert!(open(&dir).find(&uid("u1")).unwrap().is_some());
    }

    #[test]
    fn releasing_a_broken_record_removes_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut book = open(&dir);
        std::fs::write(dir.path().join("claims/u1.json"), "garbage").unwrap();
        book.release(&uid("u1"), || Ok(())).unwrap();
        assert!(!dir.path().join("claims/u1.json").exists());
    }
}
