//! What the kubelet calls: a prepare's steps in their order, each undone if a later one fails, and the way back.
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use aliquot_model::GpuUuid;
use aliquot_params::policy::Policy;
use dra_plugin::{AllocatedClaim, Call, ClaimRef, Driver, Failure, PreparedDevice};

use super::{
    Claims, Error, Held, Record, State,
    book::{self, Commit, Reservation},
    broken,
    hold::Clash,
    naming, plan,
    record::schema,
    specs::{Before, Written},
    taking::Taking,
    wait,
};
use crate::{
    discovery::{Found, View},
    fault::{self, Point},
    health::Verdict,
};

/// How long a claim waits for one that wants another time slice: for a pod that is being replaced, and not for one that
/// stays.
const OTHER_SLICE: Duration = Duration::from_secs(5);

impl Driver for Claims {
    async fn recall(&self, claim: &ClaimRef) -> Option<Result<Vec<PreparedDevice>, Failure>> {
        self.asked.note(claim.uid());
        let record = match self.book().find(claim.uid()) {
            Ok(record) => record.filter(|record| record.state == State::Prepared)?,
            Err(error) => return Some(Err(broken(&error))),
        };
        if !self.has_spec(&record) {
            // Somebody emptied the directory. Without a reading of the GPUs the claim is prepared from the beginning, and so is
            // one that another instance has unprepared meanwhile.
            let found = self.first_reading().await?;
            match self.restore_spec(&record, &found) {
                Ok(Written::Done) => {}
                Ok(Written::RecordGone) => return None,
                Err(failure) => return Some(Err(failure)),
            }
        }
        Some(Ok(record.answer(&self.base)))
    }

    async fn prepare(&self, claim: AllocatedClaim, call: &Call) -> Result<Vec<PreparedDevice>, Failure> {
        let found = self.found(call).await?;
        let policy = self.judged_policy(call).await?;
        let devices = plan::plan(&claim, &found.inventory, &policy, &self.site)
            .map_err(|fault| Failure::Permanent(fault.to_string()))?;
        let metadata = self.metadata.of(&claim, &devices);
        let record = Arc::new(Record {
            schema: schema(&devices),
            boot_id: self.boot_id.clone(),
            claim: claim.claim.clone(),
            state: State::Preparing,
            devices,
            pods: claim.reserved_for.clone(),
            metadata,
        });
        self.pass(&record, &found, call).await?;
        fault::point(Point::PrepareBegun);
        // Whatever an earlier try has done or not is done again.
        let earlier = self.book().find(record.claim.uid()).map_err(|error| broken(&error))?;
        if let Some(earlier) = earlier.filter(|earlier| earlier.devices != record.devices) {
            // The claim was allocated anew, and nobody said so.
            self.restore_time_slices(&earlier).await;
            self.reset(&earlier).await;
            if !earlier.taken().all(|taken| record.taken().any(|now| now.functions == taken.functions)) {
                self.give_back(&earlier).await.map_err(|error| broken(&Error::from(error)))?;
            }
        }
        self.reserve(&record, call).await?;
        fault::point(Point::Reserved);
        // It may have waited for a virtual machine that left the GPU unclean.
        if let Some(Verdict::Refused(note)) = self.verdict(&record, &found) {
            self.undo(&record).await;
            return Err(Failure::Permanent(note));
        }
        let found = match self.still_planned(&record, &claim, &policy, found) {
            Ok(found) => found,
            Err(failure) => {
                self.undo(&record).await;
                return Err(failure);
            }
        };
        match self.take(&record, call).await {
            Ok(()) => {}
            // The record stands, so that nobody else gets what is on its way.
            Err(Taking::GoesOn) => return Err(self.going_on(&record)),
            Err(Taking::Failed(failure)) => {
                self.undo(&record).await;
                return Err(failure);
            }
        }
        let made = match self.set_time_slices(&record, &found, call).await {
            Ok(()) => self.write_spec(&record, &found, Before::Goes),
            Err(failure) => Err(failure),
        };
        let commit = match made {
            Ok(Written::RecordGone) => Commit::Gone,
            Ok(Written::Done) => self.book().commit(&record, || !call.is_unheard()).map_err(|error| broken(&error))?,
            Err(failure) => {
                self.undo(&record).await;
                return Err(failure);
            }
        };
        let overtaken = match commit {
            Commit::Done => None,
            // Another driver instance has unprepared it, and knew nothing of what was made here since.
            Commit::Gone => Some("the claim was unprepared while it was being prepared"),
            // Its claim may be gone by now, and nobody would unprepare it.
            Commit::Unheard => {
                Some("nobody waits for the claim any more, as this driver stood still; the next try begins anew")
            }
        };
        if let Some(overtaken) = overtaken {
            self.undo(&record).await;
            return Err(Failure::Transient(overtaken.to_owned()));
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

impl Claims {
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
        let judged = call.limit(policy.wait_for(|now| now.judged().is_some())).await;
        let judged = judged.and_then(Result::ok).and_then(|now| now.judged());
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

    /// What the GPUs are now, if the plan holds by that: one that comes back from a virtual machine may have another number.
    fn still_planned(
        &self,
        record: &Record,
        claim: &AllocatedClaim,
        policy: &Policy,
        found: Arc<Found>,
    ) -> Result<Arc<Found>, Failure> {
        let now = match &*self.view.borrow() {
            View::Ready(now) if !Arc::ptr_eq(now, &found) => Arc::clone(now),
            _ => return Ok(found),
        };
        let plan = plan::plan(claim, &now.inventory, policy, &self.site);
        if plan.is_ok_and(|devices| devices == record.devices) {
            return Ok(now);
        }
        Err(Failure::Transient("the node's GPUs changed while the claim waited for one; it is planned anew".to_owned()))
    }

    /// Refuses what a pod of somebody else holds, and what nothing can run on. Whoever only looks at a GPU may do so.
    async fn pass(&self, record: &Record, found: &Found, call: &Call) -> Result<(), Failure> {
        match self.verdict(record, found) {
            Some(Verdict::Refused(note)) => return Err(Failure::Permanent(note)),
            Some(Verdict::Warned(note)) => {
                tracing::warn!(claim = %record.claim, "{note}");
                self.notices.warn_users(&record.claim, &record.pods, "GPUUnhealthy", note);
            }
            None => {}
        }
        let in_use = self.gate.in_use(&record.claim, &taken(record), &found.inventory, call).await;
        let Some(in_use) = in_use else { return Ok(()) };
        let note = in_use.note();
        if in_use.is_refused {
            return Err(Failure::Permanent(note));
        }
        self.notices.warn_users(&record.claim, &record.pods, "GPUContested", note);
        Ok(())
    }

    fn verdict(&self, record: &Record, found: &Found) -> Option<Verdict> {
        self.health.verdict(&taken(record), &found.inventory)
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
            Ok(Some(now)) if book::is_anothers(&now, record) => return,
            Ok(_) => {
                let undone = self.let_go(record).await;
                undone.and_then(|()| Ok(self.book().abandon(record, || self.remove_files(claim.uid()))?))
            }
            Err(error) => Err(error.into()),
        };
        self.changed.send_replace(());
        if let Err(error) = undone {
            tracing::error!(claim = %claim, claim.uid = %claim.uid(), error = %crate::report(&error),
                "a failed prepare can't be undone yet; the kubelet's unprepare does it");
        }
    }
}

/// The devices that it has of its own, with their GPUs.
fn taken(record: &Record) -> Vec<(String, &GpuUuid)> {
    let taken = record.devices.iter().filter(|held| !held.admin_access);
    taken.map(|held| (held.device.to_string(), &held.gpu)).collect()
}

fn names(record: &Record) -> String {
    record.devices.iter().map(|held| held.device.as_str()).collect::<Vec<_>>().join(",")
}
