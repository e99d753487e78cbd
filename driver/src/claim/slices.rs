//! Brings GPUs' time slices to what the records say, one change of a GPU at a time.
//!
//! What a time slice is to be follows from the records alone, so that a restart, a crash and another instance of the driver
//! all come to the same. What is set can't be asked for; so what this process did is remembered, and only to leave out what
//! is certainly done already. What could not be given back is a debt, which is written down and tried again.
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aliquot_model::GpuUuid;
use aliquot_params::TimeSlice;
use dra_plugin::{Backoff, Call, Failure};
use tokio::sync::Mutex as AsyncMutex;

use super::{Claims, Record, book::Change, broken, debts::Debts, hold};
use crate::{
    discovery::Found,
    fault::{self, Point},
    sharing::time_slice,
};

/// Between two tries to give back what is owed: at first, and at last.
const SOON: Duration = Duration::from_secs(1);
const SELDOM: Duration = Duration::from_mins(5);

/// One turn for each GPU, and in it what was last set there; none where that isn't known. These are the only locks held
/// while something outside is asked.
#[derive(Debug)]
pub(super) struct TimeSlices {
    turns: Mutex<BTreeMap<GpuUuid, Turn>>,
    /// GPUs which still have the time slice of a claim that is gone.
    debts: Debts,
}

type Turn = Arc<AsyncMutex<Option<TimeSlice>>>;

impl TimeSlices {
    /// With what earlier processes owed.
    pub(super) fn new(debts: Debts) -> Self {
        Self { turns: Mutex::default(), debts }
    }

    fn turn(&self, gpu: &GpuUuid) -> Turn {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(turns.entry(gpu.clone()).or_default())
    }

    /// Sets it, and remembers so; whether that was owed.
    async fn set(
        &self,
        gpu: &GpuUuid,
        slice: TimeSlice,
        known: &mut Option<TimeSlice>,
        found: &Found,
    ) -> Result<bool, time_slice::Error> {
        // Whoever gives up half-way leaves something that isn't known.
        *known = None;
        time_slice::set(&found.installation, gpu, slice).await?;
        *known = Some(slice);
        Ok(self.debts.settle(gpu))
    }
}

impl Claims {
    /// Sets what the claim changes, all GPUs side by side. A GPU that can't is told of in an event, unless the claim
    /// insists.
    pub(super) async fn set_time_slices(&self, record: &Record, found: &Found, call: &Call) -> Result<(), Failure> {
        let gpus = self.slices_of(record)?.into_iter().map(|change| self.set_time_slice(record, change.gpu, found));
        let all = futures::future::try_join_all(gpus);
        tokio::select! {
            // What is done counts, however late.
            biased;
            done = all => done.map(|_| ()),
            () = call.cancelled.cancelled() => Err(Failure::Transient("the claim is being unprepared".to_owned())),
            () = tokio::time::sleep(call.remaining()) => Err(Failure::Transient(
                "the time slices of its GPUs are not set yet; the kubelet tries again".to_owned(),
            )),
        }
    }

    async fn set_time_slice(&self, record: &Record, gpu: GpuUuid, found: &Found) -> Result<(), Failure> {
        let turn = self.slices.turn(&gpu);
        let mut known = turn.lock().await;
        let Some(change) = self.slices_of(record)?.into_iter().find(|change| change.gpu == gpu) else { return Ok(()) };
        // Where others want the same, another driver instance can't have undone it.
        if change.without == change.with && *known == Some(change.with) {
            return Ok(());
        }
        let slice = change.with;
        if let Err(error) = self.slices.set(&gpu, slice, &mut known, found).await {
            let reason = crate::report(&error);
            let text = format!("the time slice of GPU {gpu} can't be set to {slice}: {reason}");
            if insists(record, &gpu) {
                return Err(Failure::Permanent(format!(
                    "{text}; the claim asks for it with required: true, without which its pod would start"
                )));
            }
            tracing::warn!(%gpu, %slice, error = reason, "the time slice can't be set");
            let note = format!("{text}; the pod starts without it");
            self.notices.warn_users(&record.claim, &record.pods, "TimeSliceNotSet", note);
        } else {
            tracing::info!(%gpu, %slice, "time slice set");
            fault::point(Point::TimeSliceSet);
        }
        Ok(())
    }

    /// Gives GPUs back the time slice that they have without the claim. The claim must be able to go: a GPU that can't is
    /// told of and written down, and asked again, by and by and with the next claim on it.
    pub(super) async fn restore_time_slices(&self, record: &Record) {
        let gpus = match self.slices_of(record) {
            Ok(changes) => changes.into_iter().map(|change| change.gpu).collect::<Vec<_>>(),
            Err(_) => return,
        };
        if gpus.is_empty() {
            return;
        }
        // Right after the start the GPUs haven't been read yet.
        let Some(found) = self.first_reading().await else {
            for gpu in &gpus {
                self.owe(gpu, "the GPUs can't be read");
            }
            return;
        };
        futures::future::join_all(gpus.into_iter().map(|gpu| self.restore_time_slice(record, gpu, &found))).await;
    }

    async fn restore_time_slice(&self, record: &Record, gpu: GpuUuid, found: &Found) {
        let turn = self.slices.turn(&gpu);
        let mut known = turn.lock().await;
        let now = self.slices_of(record).unwrap_or_default();
        let Some(change) = now.into_iter().find(|change| change.gpu == gpu) else { return };
        if change.without == change.with && !self.slices.debts.gpus().contains(&gpu) {
            return;
        }
        self.give_slice_back(&gpu, change.without, &mut known, found).await;
    }

    async fn give_slice_back(&self, gpu: &GpuUuid, slice: TimeSlice, known: &mut Option<TimeSlice>, found: &Found) {
        match self.slices.set(gpu, slice, known, found).await {
            Ok(was_owed) => {
                tracing::info!(%gpu, %slice, "time slice restored");
                fault::point(Point::TimeSliceRestored);
                if was_owed {
                    let note =
                        format!("GPU {gpu} has its time slice back: {slice}, as the claims that are there want it");
                    self.notices.tell_node("TimeSliceRestored", note);
                }
            }
            Err(error) => self.owe(gpu, &crate::report(&error)),
        }
    }

    fn owe(&self, gpu: &GpuUuid, reason: &str) {
        let note = format!(
            "GPU {gpu} keeps the time slice of a claim that is gone: {reason}; this is tried again, and can be done by hand: \
             nvidia-smi compute-policy -i {gpu} --set-timeslice 0"
        );
        tracing::warn!(%gpu, "{note}");
        if self.slices.debts.note(gpu, reason) {
            self.notices.warn_node("TimeSliceNotRestored", note);
        }
    }

    /// Gives back what is owed, by this process or by one before it; as long as it can't be, ever more seldom.
    pub async fn settle_debts(&self) {
        let mut backoff = Backoff::new(SOON, SELDOM);
        loop {
            let owed = self.slices.debts.gpus();
            if owed.is_empty() {
                backoff = Backoff::new(SOON, SELDOM);
                // What another instance owes when it ends, nobody tells of.
                let _ = tokio::time::timeout(SELDOM, self.slices.debts.noted()).await;
            } else if let Some(found) = self.first_reading().await {
                futures::future::join_all(owed.iter().map(|gpu| self.settle(gpu, &found))).await;
            }
            tokio::time::sleep(backoff.pause()).await;
        }
    }

    async fn settle(&self, gpu: &GpuUuid, found: &Found) {
        let turn = self.slices.turn(gpu);
        let mut known = turn.lock().await;
        if !self.slices.debts.gpus().contains(gpu) {
            return;
        }
        let slice = self.book().time_slice(gpu);
        match slice {
            Ok(slice) => self.give_slice_back(gpu, slice, &mut known, found).await,
            Err(error) => {
                tracing::warn!(%gpu, error = crate::report(&error), "what its time slice is to be isn't known");
            }
        }
    }

    /// The GPUs in which the record has a say, and those of its GPUs that are owed something.
    fn slices_of(&self, record: &Record) -> Result<Vec<Change>, Failure> {
        let mut gpus = hold::sliced(record);
        let owed = self.slices.debts.gpus();
        gpus.extend(hold::used(record).map(|held| &held.gpu).filter(|gpu| owed.contains(gpu)));
        if gpus.is_empty() {
            return Ok(Vec::new());
        }
        self.book().time_slices(record, &gpus).map_err(|error| broken(&error))
    }
}

/// Whether the pod is not to start without its time slice on this GPU.
fn insists(record: &Record, gpu: &GpuUuid) -> bool {
    let slices = hold::used(record).filter(|held| held.gpu == *gpu).filter_map(|held| held.time_slice);
    slices.into_iter().any(|slice| slice.required)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            record::Slice,
            testing::{record, share},
        },
        *,
    };

    #[test]
    fn any_request_of_the_claim_may_insist_and_one_for_administration_may_not() {
        let slice = |required| Some(Slice { interval: TimeSlice::Short, asked: true, required });
        let mut two = share("u1", "gpu-0", 1, 8);
        two.devices.push(share("u1", "gpu-0", 1, 8).devices.remove(0));
        let gpu = two.devices[0].gpu.clone();
        assert!(!insists(&two, &gpu));
        two.devices[1].time_slice = slice(true);
        assert!(insists(&two, &gpu));
        assert!(!insists(&two, &record("u2", &["gpu-1"]).devices[0].gpu));
        two.devices[1].admin_access = true;
        assert!(!insists(&two, &gpu));
    }
}
