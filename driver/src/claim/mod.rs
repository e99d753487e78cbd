//! What one claim gets: plan, reserve, write the CDI spec, commit; and the way back.
//!
//! ```text
//! claim ─> plan (pure) ─> book.reserve (intent) ─> time slice ─> spec written ─> book.commit (prepared) ─> answer
//!                              │ in another's way (hold, pure): wait for its unprepare
//! ```
//! Every step can be repeated, and every state that a killed process leaves behind is one that the next call goes on
//! from: the record is there before anything it describes, and is the last to go.
mod book;
mod debts;
mod file;
mod hold;
mod look;
mod metadata;
mod naming;
mod plan;
mod prepare;
mod quarantine;
mod record;
mod reset;
mod settings;
mod slices;
mod specs;
mod stuck;
mod taking;
#[cfg(test)]
mod tests;
mod upkeep;
mod wait;

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use dra_plugin::{ClaimRef, ClaimUid, Failure};
use tokio::sync::{Notify, mpsc::UnboundedSender, watch};

use crate::{
    binding::{Binder, Trouble},
    discovery::{Found, View},
    edits::{Base, Edits},
    fault::{self, Point},
    health,
    notices::Notices,
    offer::{Holding, lost},
    others::Gate,
    policy::InForce,
};
use book::Book;
use debts::Debts;
pub(crate) use debts::{Owed, look as look_at_owed};
#[cfg(test)]
pub(crate) use look::Device as SeenDevice;
pub(crate) use look::{LookAt, Seen, State as SeenState, look};
pub use plan::Site;
pub(crate) use quarantine::Quarantined;
#[cfg(test)]
pub(crate) use record::Slice;
#[cfg(test)]
pub(crate) use record::tests as testing;
pub(crate) use record::{Held, Passed, Record, State};
use slices::TimeSlices;
pub(crate) use stuck::Failures;
use stuck::Stuck;
pub(crate) use upkeep::Kept;

/// The directory of records, below the run root.
pub(crate) const RECORDS: &str = "claims";
/// That of what containers may read of their devices.
const METADATA: &str = "metadata";
/// That of time slices which couldn't be given back.
pub(crate) const OWED: &str = "time-slices";

/// How long what has no deadline of its own waits for the first reading of the GPUs; the kubelet gives up after 45 s.
const FIRST_READING: Duration = Duration::from_secs(10);

/// The claims of this node.
pub struct Claims {
    site: Site,
    boot_id: String,
    book: Mutex<Book>,
    /// Told after each change, so that a claim that waits for a device looks again.
    changed: watch::Sender<()>,
    view: watch::Receiver<View>,
    read: watch::Receiver<Instant>,
    policy: watch::Receiver<InForce>,
    notices: Notices,
    gate: Gate,
    health: health::Gate,
    slices: TimeSlices,
    binder: Binder,
    /// Told when a GPU is with NVIDIA's driver again.
    returned: Notify,
    /// Which GPUs can't be taken or given back.
    stuck: Stuck,
    /// Told what came of each reset.
    resets: UnboundedSender<health::Reset>,
    store: cdi_spec::Store,
    edits: Edits,
    base: Base,
    metadata: metadata::Writer,
    /// When the kubelet last asked for each claim.
    asked: upkeep::Asked,
    /// What is known of records that can't be used.
    known: quarantine::Known,
}

/// What claims are prepared with, from the rest of the driver.
#[derive(Debug)]
pub struct Around {
    /// The GPUs.
    pub view: watch::Receiver<View>,
    /// When the last reading of them was begun.
    pub read: watch::Receiver<Instant>,
    /// How they are shared.
    pub policy: watch::Receiver<InForce>,
    /// Where users are told.
    pub notices: Notices,
    /// Who else may have given the GPUs away.
    pub gate: Gate,
    /// Which GPUs are too ill.
    pub health: health::Gate,
    /// Told which GPUs could be reset after a virtual machine, and which couldn't.
    pub resets: UnboundedSender<health::Reset>,
    /// Who takes GPUs from NVIDIA's driver, and gives them back.
    pub binder: Binder,
}

/// Why the claims of this node can't be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The records.
    #[error("the records of prepared claims can't be used")]
    Book(#[source] book::Error),
    /// What is owed to GPUs.
    #[error("the time slices that GPUs are to get back can't be kept")]
    Debts(#[source] owned_dir::Error),
    /// The CDI directory.
    #[error("the directory of CDI specs can't be used")]
    Store(#[from] cdi_spec::StoreError),
    /// The driver's name.
    #[error(transparent)]
    Name(#[from] cdi_spec::InvalidName),
    /// What a virtual machine had.
    #[error("what its virtual machine had can't be given back to the host")]
    Taken(#[source] Trouble),
}

impl From<taking::Error> for Error {
    fn from(error: taking::Error) -> Self {
        match error {
            taking::Error::Book(error) => error.into(),
            taking::Error::Binding(trouble) => Self::Taken(trouble),
        }
    }
}

impl From<book::Error> for Error {
    fn from(error: book::Error) -> Self {
        match error {
            book::Error::Spec(error) => Self::Store(error),
            other => Self::Book(other),
        }
    }
}

impl Claims {
    /// Opens the records and what else is kept below `run`, and removes what is of an earlier boot.
    pub fn open(
        site: Site,
        boot_id: String,
        run: &Path,
        store: cdi_spec::Store,
        edits: Edits,
        around: Around,
    ) -> Result<Self, Error> {
        let Around { view, read, policy, notices, gate, health, resets, binder } = around;
        // The spec first, as ever: of what is left when this is broken off, there is still a record.
        let metadata = metadata::Writer::open(&run.join(METADATA)).map_err(book::Error::Dir)?;
        let first = |uid: &ClaimUid| {
            store.remove(&site.cdi_kind, uid.as_str())?;
            Ok(metadata.remove(uid)?)
        };
        let book = Book::open_and_clean(&run.join(RECORDS), boot_id.clone(), first)?;
        let debts = Debts::open(&run.join(OWED), boot_id.clone()).map_err(Error::Debts)?;
        let (changed, slices, base) = (watch::Sender::new(()), TimeSlices::new(debts), Base::of(&site.cdi_kind)?);
        let (asked, known) = (upkeep::Asked::default(), quarantine::Known::default());
        let book = Mutex::new(book);
        let claims = Self {
            site,
            boot_id,
            book,
            changed,
            view,
            read,
            policy,
            notices,
            gate,
            health,
            slices,
            binder,
            returned: Notify::new(),
            stuck: Stuck::default(),
            resets,
            store,
            edits,
            base,
            metadata,
            asked,
            known,
        };
        let quarantined = claims.book().quarantined()?;
        claims.tell_quarantined(&quarantined);
        Ok(claims)
    }

    /// The records of this node's claims; none if they can't be read now.
    pub(crate) fn records(&self) -> Vec<Arc<Record>> {
        self.book().all().unwrap_or_default()
    }

    /// What claims on this node hold of each device, for those who offer. Without an answer nothing must be offered: it
    /// may be held.
    pub(crate) fn holdings(&self) -> Result<Vec<Holding>, book::Error> {
        self.book().holdings()
    }

    /// The records of those who hold shares.
    pub(crate) fn sharing(&self) -> Result<Vec<Arc<Record>>, book::Error> {
        self.book().sharing()
    }

    /// The records of those that are prepared.
    pub(crate) fn prepared(&self) -> Result<Vec<Arc<Record>>, book::Error> {
        let mut records = self.book().all()?;
        records.retain(|record| record.state == State::Prepared);
        Ok(records)
    }

    /// What virtual machines on this node were given.
    pub(crate) fn passed(&self) -> Result<Vec<lost::Passed>, book::Error> {
        let passed = |record: &Record, held: &Held| {
            let Passed { group, gpus, taken, .. } = held.vfio.clone()?;
            let (claim, pods) = (record.claim.clone(), record.pods.clone());
            let is_taken = taken.is_some();
            Some(lost::Passed { device: held.device.clone(), group, gpus, is_taken, claim, pods })
        };
        let records = self.prepared()?;
        Ok(records.iter().flat_map(|record| record.devices.iter().filter_map(|held| passed(record, held))).collect())
    }

    /// The record of one claim; a text that is no UID has none.
    pub(crate) fn record(&self, uid: &str) -> Result<Option<Arc<Record>>, Error> {
        match ClaimUid::new(uid) {
            Ok(uid) => Ok(self.book().find(&uid)?),
            Err(_) => Ok(None),
        }
    }

    /// Told after each change of what is held.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// The book is only ever held for a few file operations, never across a wait.
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last reading of the node's GPUs, waiting a while for the first one; none if they can't be read.
    async fn first_reading(&self) -> Option<Arc<Found>> {
        let mut view = self.view.clone();
        let first = tokio::time::timeout(FIRST_READING, view.wait_for(|view| *view != View::Searching)).await;
        match first.ok()?.as_deref() {
            Ok(View::Ready(found)) => Some(Arc::clone(found)),
            _ => None,
        }
    }

    /// What a claim has changed on its GPUs is as if it hadn't been there.
    async fn let_go(&self, record: &Record) -> Result<(), Error> {
        self.restore_time_slices(record).await;
        self.reset(record).await;
        Ok(self.give_back(record).await?)
    }

    /// The spec first: a record without a spec is still found by the next call, a spec without a record is not.
    ///
    /// The time slice before both: what it is to be follows from the records. And what a virtual machine had: as long as that
    /// is not the host's again, the record says where it is to go.
    async fn remove(&self, claim: &ClaimRef) -> Result<(), Error> {
        fault::point(Point::UnprepareBegun);
        let record = self.book().find(claim.uid())?;
        if let Some(record) = record {
            self.let_go(&record).await?;
        }
        self.book().release(claim.uid(), || self.remove_files(claim.uid()))?;
        fault::point(Point::Released);
        self.changed.send_replace(());
        Ok(())
    }
}

/// The node's own trouble, which may pass: a full or read-only file system, say.
fn broken(error: &dyn std::error::Error) -> Failure {
    Failure::Transient(crate::report(error))
}
