//! What one claim gets: plan, reserve, write the CDI spec, commit; and the way back.
//!
//! ```text
//! claim ─> plan (pure) ─> book.reserve (intent) ─> time slice ─> spec written ─> book.commit (prepared) ─> answer
//!                              │ in another's way (hold, pure): wait for its unprepare
//! ```
//! Every step can be repeated, and every state that a killed process leaves behind is one that the next call goes on
//! from: the record is there before anything it describes, and is the last to go.
mod book;
mod file;
mod hold;
mod look;
mod naming;
mod plan;
mod quarantine;
mod record;
mod settings;
mod slices;
mod upkeep;
mod wait;

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use aliquot_params::policy::Policy;
use dra_plugin::{AllocatedClaim, Call, ClaimRef, ClaimUid, Driver, Failure, PreparedDevice};
use tokio::sync::watch;

use crate::{
    discovery::{Found, View},
    edits::{Base, Edits},
    fault::{self, Point},
    health::{self, Verdict},
    notices::Notices,
    offer::Holding,
    others::Gate,
    policy::InForce,
};
use book::{Book, Reservation};
use hold::Clash;
#[cfg(test)]
pub(crate) use look::Device as SeenDevice;
pub(crate) use look::{LookAt, Seen, State as SeenState, look};
pub use plan::Site;
pub(crate) use quarantine::Quarantined;
use record::SCHEMA;
#[cfg(test)]
pub(crate) use record::Slice;
#[cfg(test)]
pub(crate) use record::tests as testing;
pub(crate) use record::{Held, Record, State};
use slices::TimeSlices;
pub(crate) use upkeep::Kept;

/// How long a claim waits for one that wants another time slice: for a pod that is being replaced, and not for one that
/// stays.
const OTHER_SLICE: Duration = Duration::from_secs(5);

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
    policy: watch::Receiver<InForce>,
    notices: Notices,
    gate: Gate,
    health: health::Gate,
    slices: TimeSlices,
    store: cdi_spec::Store,
    edits: Edits,
    base: Base,
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
    /// How they are shared.
    pub policy: watch::Receiver<InForce>,
    /// Where users are told.
    pub notices: Notices,
    /// Who else may have given the GPUs away.
    pub gate: Gate,
    /// Which GPUs are too ill.
    pub health: health::Gate,
}

/// Why the claims of this node can't be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The records.
    #[error("the records of prepared claims can't be used")]
    Book(#[source] book::Error),
    /// The CDI directory.
    #[error("the directory of CDI specs can't be used")]
    Store(#[from] cdi_spec::StoreError),
    /// The driver's name.
    #[error(transparent)]
    Name(#[from] cdi_spec::InvalidName),
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
    /// Opens the records and the CDI directory, and removes what is of an earlier boot.
    pub fn open(
        site: Site,
        boot_id: String,
        records: &Path,
        store: cdi_spec::Store,
        edits: Edits,
        around: Around,
    ) -> Result<Self, Error> {
        let Around { view, policy, notices, gate, health } = around;
        // The spec first, as ever: of what is left when this is broken off, there is still a record.
        let first = |uid: &ClaimUid| store.remove(&site.cdi_kind, uid.as_str());
        let book = Book::open_and_clean(records, boot_id.clone(), first)?;
        let (changed, slices, base) = (watch::Sender::new(()), TimeSlices::default(), Base::of(&site.cdi_kind)?);
        let (asked, known) = (upkeep::Asked::default(), quarantine::Known::default());
        let book = Mutex::new(book);
        let claims = Self {
            site,
            boot_id,
            book,
            changed,
            view,
            policy,
            notices,
            gate,
            health,
            slices,
            store,
            edits,
            base,
            asked,
            known,
        };
        let quarantined = claims.book().quarantined()?;
        claims.tell_quarantined(&quarantined);
        Ok(claims)
    }

    /// How many claims this node holds records of.
    pub fn count(&self) -> usize {
        self.book().all().map_or(0, |records| records.len())
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

    /// Writes the specs of prepared claims that are gone from the directory: a container that starts again in its pod needs
    /// them, and the kubelet doesn't ask for that.
    pub async fn restore_specs(&self) {
        let mut view = self.view.clone();
        let Ok(View::Ready(found)) =
            view.wait_for(|view| matches!(view, View::Ready(_))).await.map(|view| view.clone())
        else {
            return;
        };
        let records = self.book().all().unwrap_or_default();
        for record in records.iter().filter(|record| record.state == State::Prepared && !self.has_spec(record)) {
            if let Err(failure) = self.restore_spec(record, &found) {
                tracing::error!(claim = %record.claim, claim.uid = %record.claim.uid(), %failure,
                    "the CDI spec of a prepared claim is missing and can't be written");
            }
        }
    }

    /// A spec that is there stays as it is, since containers that start again must get what the first ones got.
    fn has_spec(&self, record: &Record) -> bool {
        let spec = self.store.read(&self.site.cdi_kind, record.claim.uid().as_str());
        matches!(spec, Ok(Some(spec)) if covers(&spec, record)) && self.has_base()
    }

    fn has_base(&self) -> bool {
        self.store.has(&self.base.kind, Base::FILE).unwrap_or(false)
    }

    fn restore_spec(&self, record: &Record, found: &Found) -> Result<(), Failure> {
        self.write_spec(record, found)?;
        tracing::warn!(claim = %record.claim, claim.uid = %record.claim.uid(),
            "the CDI spec of a prepared claim was missing or damaged; written anew");
        Ok(())
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

    /// The last reading of the node's GPUs, waiting for the first one.
    async fn found(&self, call: &Call) -> Result<Arc<Found>, Failure> {
        let mut view = self.view.clone();
        let first = call.limit(view.wait_for(|view| *view != View::Searching)).await;
        match first.and_then(Result::ok).as_deref() {
            Some(View::Ready(found)) => Ok(Arc::clone(found)),
            Some(View::Searching) | None => {
                Err(Failure::Transient("the node's GPUs have not been read yet".to_owned()))
            }
            Some(View::Unavailable(reason)) => {
                Err(Failure::Transient(format!("the node's GPUs can't be read: {reason}")))
            }
        }
    }

    /// The policy in force, waiting for the file's first judgement, which needs a reading of the GPUs as well. Where there
    /// is no good one, what has been allocated is prepared by the defaults.
    async fn judged_policy(&self, call: &Call) -> Result<Arc<Policy>, Failure> {
        let mut policy = self.policy.clone();
        let judged = call.limit(policy.wait_for(|now| now.policy().is_some() || now.trouble().is_some())).await;
        let judged = judged.and_then(Result::ok).map(|now| now.policy().unwrap_or_default());
        judged.ok_or_else(|| Failure::Transient("the policy has not been read yet".to_owned()))
    }

    /// Speaks for the devices; while another claim is in the way, waits for its unprepare.
    async fn reserve(&self, record: &Arc<Record>, call: &Call) -> Result<(), Failure> {
        let mut wait = wait::Wait::new(self.changed.subscribe());
        let (mut told, begun) = (false, Instant::now());
        loop {
            let quarantined = self.in_quarantine(record).map_err(|error| broken(&error))?;
            let reservation = match quarantined {
                Some(clash) => Reservation::Clashes(clash),
                None => self.book().reserve(record).map_err(|error| broken(&error))?,
            };
            let clash = match reservation {
                Reservation::Held => return Ok(()),
                Reservation::Clashes(clash) => clash,
            };
            let (holder, patience) = match &clash {
                Clash::Held { by, .. } | Clash::Full { by, .. } => (by.uid(), Duration::MAX),
                Clash::Quarantined { uid, .. } => (uid, Duration::MAX),
                Clash::TimeSlice { by, .. } => (by.uid(), OTHER_SLICE),
            };
            if begun.elapsed() < patience {
                if !std::mem::replace(&mut told, true) {
                    tracing::info!(holder.uid = %holder, "waiting for another claim to leave: {}",
                        naming::clash(&clash, &record.claim));
                }
                if wait.more(call).await {
                    continue;
                }
            }
            return Err(Failure::Permanent(naming::clash(&clash, &record.claim)));
        }
    }

    fn write_spec(&self, record: &Record, found: &Found) -> Result<(), Failure> {
        // Before what needs it; one that says the same already isn't written again.
        let base = self.edits.base(&self.base, found).map_err(|error| broken(&error))?;
        let spec = self.edits.spec(&self.site.cdi_kind, record, found).map_err(|error| broken(&error))?;
        // Two writers of one file would have each other's halves.
        let written = self.book().alone(|_| {
            self.store.write(Base::FILE, &base)?;
            Ok(self.store.write(record.claim.uid().as_str(), &spec)?)
        });
        written.map_err(|error| broken(&error))
    }

    /// Refuses what a pod of somebody else holds, and what nothing can run on. Whoever only looks at a GPU may do so.
    async fn pass(&self, record: &Record, found: &Found, call: &Call) -> Result<(), Failure> {
        let taken = record.devices.iter().filter(|held| !held.admin_access);
        let taken: Vec<_> = taken.map(|held| (held.device.to_string(), &held.gpu)).collect();
        match self.health.verdict(&taken, &found.inventory) {
            Some(Verdict::Refused(note)) => return Err(Failure::Permanent(note)),
            Some(Verdict::Warned(note)) => {
                tracing::warn!(claim = %record.claim, "{note}");
                self.notices.warn_users(&record.claim, &record.pods, "GPUUnhealthy", note);
            }
            None => {}
        }
        let Some(in_use) = self.gate.in_use(&record.claim, &taken, &found.inventory, call).await else { return Ok(()) };
        let note = in_use.note();
        if in_use.is_refused {
            return Err(Failure::Permanent(note));
        }
        self.notices.warn_users(&record.claim, &record.pods, "GPUContested", note);
        Ok(())
    }

    /// A scheduler without consumable capacity takes a shared device for one of its own; nobody else would know.
    fn tell_exclusive(&self, record: &Record) {
        let alone =
            |held: &&Held| held.device.is_shared() && !held.admin_access && held.share.is_some_and(|share| share.alone);
        if let Some(held) = record.devices.iter().find(alone) {
            let note = format!(
                "the whole of {} was allocated in place of a share: the scheduler doesn't know shares (feature gate \
                 DRAConsumableCapacity); set the gate, or offer fixed shares, see fallback in the policy",
                held.device
            );
            tracing::warn!(claim = %record.claim, "{note}");
            self.notices.warn_users(&record.claim, &record.pods, "ShareIsWhole", note.clone());
            self.notices.warn_node("ShareIsWhole", note);
        }
    }

    /// Undoes a reservation whose side effects failed, so that a device isn't held for nothing. What another instance has
    /// prepared meanwhile is its own.
    async fn undo(&self, record: &Record) {
        let claim = &record.claim;
        let now = self.book().find(claim.uid());
        let undone = match now {
            Ok(Some(now)) if now.state == State::Prepared && now.devices == record.devices => return,
            Ok(_) => {
                self.restore_time_slices(record).await;
                self.book().abandon(record, || self.store.remove(&self.site.cdi_kind, claim.uid().as_str()))
            }
            Err(error) => Err(error),
        };
        self.changed.send_replace(());
        if let Err(error) = undone {
            tracing::error!(claim = %claim, claim.uid = %claim.uid(), error = %crate::report(&error),
                "a failed prepare can't be undone yet; the kubelet's unprepare does it");
        }
    }

    /// The spec first: a record without a spec is still found by the next call, a spec without a record is not.
    ///
    /// The time slice before both: what it is to be follows from the records.
    async fn remove(&self, claim: &ClaimRef) -> Result<(), Error> {
        fault::point(Point::UnprepareBegun);
        let record = self.book().find(claim.uid())?;
        if let Some(record) = record {
            self.restore_time_slices(&record).await;
        }
        self.book().release(claim.uid(), || self.store.remove(&self.site.cdi_kind, claim.uid().as_str()))?;
        fault::point(Point::Released);
        self.changed.send_replace(());
        Ok(())
    }
}

impl Driver for Claims {
    async fn recall(&self, claim: &ClaimRef) -> Option<Result<Vec<PreparedDevice>, Failure>> {
        self.asked.note(claim.uid());
        let record = match self.book().find(claim.uid()) {
            Ok(record) => record.filter(|record| record.state == State::Prepared)?,
            Err(error) => return Some(Err(broken(&error))),
        };
        if !self.has_spec(&record) {
            // Somebody emptied the directory. Without a reading of the GPUs the claim is prepared from the beginning.
            let found = self.first_reading().await?;
            if let Err(failure) = self.restore_spec(&record, &found) {
                return Some(Err(failure));
            }
        }
        Some(Ok(record.answer(&self.base)))
    }

    async fn prepare(&self, claim: AllocatedClaim, call: &Call) -> Result<Vec<PreparedDevice>, Failure> {
        let found = self.found(call).await?;
        let policy = self.judged_policy(call).await?;
        let devices = plan::plan(&claim, &found.inventory, &policy, &self.site)
            .map_err(|fault| Failure::Permanent(fault.to_string()))?;
        let record = Arc::new(Record {
            schema: SCHEMA,
            boot_id: self.boot_id.clone(),
            claim: claim.claim.clone(),
            state: State::Preparing,
            devices,
            pods: claim.reserved_for.clone(),
        });
        self.pass(&record, &found, call).await?;
        fault::point(Point::PrepareBegun);
        // Whatever an earlier try has done or not is done again.
        let earlier = self.book().find(record.claim.uid()).map_err(|error| broken(&error))?;
        if let Some(earlier) = earlier.filter(|earlier| earlier.devices != record.devices) {
            // The claim was allocated anew, and nobody said so.
            self.restore_time_slices(&earlier).await;
        }
        self.reserve(&record, call).await?;
        fault::point(Point::Reserved);
        let made = match self.set_time_slices(&record, &found, call).await {
            Ok(()) => self.write_spec(&record, &found),
            Err(failure) => Err(failure),
        };
        if let Err(failure) = made {
            self.undo(&record).await;
            return Err(failure);
        }
        if !self.book().commit(record.claim.uid()).map_err(|error| broken(&error))? {
            // Another driver instance unprepared it meanwhile, and knew nothing of what was made here since.
            self.undo(&record).await;
            return Err(Failure::Transient("the claim was unprepared while it was being prepared".to_owned()));
        }
        fault::point(Point::Committed);
        self.asked.note(record.claim.uid());
        self.changed.send_replace(());
        tracing::info!(devices = %names(&record), "prepared");
        self.tell_exclusive(&record);
        Ok(record.answer(&self.base))
    }

    async fn unprepare(&self, claim: &ClaimRef) -> Result<(), Failure> {
        self.remove(claim).await.map_err(|error| broken(&error))?;
        tracing::info!("unprepared");
        Ok(())
    }
}

/// Whether a spec has every device that the record's answer names.
fn covers(spec: &cdi_spec::Spec, record: &Record) -> bool {
    let named = |held: &Held| spec.devices.iter().any(|device| device.name.as_str() == held.cdi_name());
    record.devices.iter().all(named)
}

fn names(record: &Record) -> String {
    record.devices.iter().map(|held| held.device.as_str()).collect::<Vec<_>>().join(",")
}

/// The node's own trouble, which may pass: a full or read-only file system, say.
fn broken(error: &dyn std::error::Error) -> Failure {
    Failure::Transient(crate::report(error))
}
