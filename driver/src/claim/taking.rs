//! Takes a claim's GPUs from NVIDIA's driver for its virtual machine, and gives them back.
//!
//! The record says what is taken before anything is, so that whoever comes upon it, after whatever, can give it back. While
//! it is on the way there or back the record is one that is being prepared, and nobody is told that the claim has it.
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use aliquot_model::{Away, GpuUuid, Taken};
use dra_plugin::{Call, Failure};
use futures::future::try_join_all;
use tokio::sync::watch;

use super::{Claims, Failures, Record, book};
use crate::{
    binding::Trouble,
    discovery::{Claimed, View},
};

/// How long NVIDIA's library may take to list a GPU that its driver has again.
const LISTED: Duration = Duration::from_secs(10);

/// The least time between two readings for that.
const AGAIN: Duration = Duration::from_millis(200);

/// Why a GPU can't be given back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The record.
    #[error(transparent)]
    Book(#[from] book::Error),
    /// The kernel, or who uses it.
    #[error("what its virtual machine had can't be given back to the host")]
    Binding(#[source] Trouble),
}

impl Claims {
    /// Takes all that the record says. What can't be had in the call's time goes on, and the next try finds it.
    pub(super) async fn take(&self, record: &Record, call: &Call) -> Result<(), Taking> {
        let all = record.taken().map(|taken| async {
            let done = self.binder.take(taken).await;
            done.inspect(|()| self.stuck.succeed(taken)).inspect_err(|trouble| self.note_failure(taken, trouble))
        });
        match call.limit(try_join_all(all)).await {
            Some(Ok(_)) => Ok(()),
            // Who uses it is not about to leave, and is to be told of at once; the kubelet tries again by itself.
            Some(Err(trouble @ Trouble::InUse { .. })) => {
                Err(Taking::Failed(Failure::Permanent(crate::report(&trouble))))
            }
            Some(Err(trouble)) if trouble.is_transient() => {
                Err(Taking::Failed(Failure::Transient(crate::report(&trouble))))
            }
            Some(Err(trouble)) => Err(Taking::Failed(Failure::Permanent(crate::report(&trouble)))),
            None => Err(Taking::GoesOn),
        }
    }

    /// What the user of a claim is told whose GPUs are still on their way.
    pub(super) fn going_on(&self, record: &Record) -> Failure {
        let places: Vec<String> = record.taken().flat_map(|taken| &taken.gpus).map(|gpu| gpu.pci.to_string()).collect();
        let before = record.taken().find_map(|taken| self.stuck.reason(taken));
        let before = before.map_or_else(String::new, |reason| format!(" (the try before failed: {reason})"));
        Failure::Transient(format!(
            "the GPU at {} is still being taken from NVIDIA's driver; that goes on, and the kubelet tries again{before}",
            places.join(" and ")
        ))
    }

    /// Counts what fails one time after the other.
    fn note_failure(&self, taken: &Taken, trouble: &Trouble) {
        if let Some(note) = self.stuck.fail(taken, &crate::report(trouble), Instant::now()) {
            tracing::error!("{note}");
            self.notices.warn_node("GPUNotMoved", note);
        }
    }

    /// The GPUs that again and again can't be taken or given back.
    pub(crate) fn stuck(&self) -> watch::Receiver<BTreeMap<GpuUuid, Failures>> {
        self.stuck.subscribe()
    }

    /// Gives back what the record has taken, and waits until NVIDIA's library lists it: who gets the GPU next is planned by
    /// what that says of it.
    pub(super) async fn give_back(&self, record: &Record) -> Result<(), Error> {
        if record.taken().next().is_none() {
            return Ok(());
        }
        self.book().unsettle(record.claim.uid())?;
        // That a try to take it is undone is no success.
        let all = record.taken().map(|taken| async {
            self.binder.give_back(taken).await.inspect_err(|trouble| self.note_failure(taken, trouble))
        });
        try_join_all(all).await.map_err(Error::Binding)?;
        if tokio::time::timeout(LISTED, self.listed(record)).await.is_err() {
            tracing::warn!(claim = %record.claim, "NVIDIA's driver has the claim's GPUs again, but doesn't list them yet");
        }
        Ok(())
    }

    /// Ends when a reading that was begun after now has the record's GPUs.
    async fn listed(&self, record: &Record) {
        let is_away = |view: &View| match view {
            View::Ready(found) => record.taken().flat_map(|taken| &taken.gpus).any(|gpu| found.away.contains(&gpu.pci)),
            View::Searching | View::Unavailable(_) => true,
        };
        let (mut read, mut since) = (self.read.clone(), Instant::now());
        loop {
            self.returned.notify_one();
            // Without another reading there will be no other answer.
            let Ok(begun) = read.wait_for(|begun| *begun >= since).await.map(|begun| *begun) else { return };
            if !is_away(&self.view.borrow()) {
                return;
            }
            since = begun + AGAIN;
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Why a claim doesn't have its GPUs.
pub(super) enum Taking {
    /// It is under way.
    GoesOn,
    /// It can't be done, and what was done is to be undone.
    Failed(Failure),
}

impl Claimed for Claims {
    fn away(&self) -> Vec<Away> {
        let records = self.book().using().inspect_err(|error| {
            tracing::error!(error = crate::report(error), "it isn't known which GPUs virtual machines have");
        });
        records.unwrap_or_default().iter().flat_map(|record: &Arc<Record>| record.away().collect::<Vec<_>>()).collect()
    }

    fn given_back(&self) -> impl Future<Output = ()> + Send {
        self.returned.notified()
    }
}
