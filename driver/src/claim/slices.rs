//! Brings GPUs' time slices to what the records say, one change of a GPU at a time.
//!
//! Nothing remembers what is set: what it was follows from the records of the others, what it is to be from these and
//! the claim's own. So a restart, a crash and another instance of the driver all come to the same.
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aliquot_model::GpuUuid;
use aliquot_params::TimeSlice;
use dra_plugin::Failure;
use tokio::sync::Mutex as AsyncMutex;

use super::{Claims, Record, broken};
use crate::{
    discovery::{Found, View},
    fault,
    sharing::time_slice,
};

/// How long an unprepare waits for the first reading of the GPUs; the kubelet gives up after 45 s.
const FIRST_READING: Duration = Duration::from_secs(10);

/// One turn for each GPU. These are the only locks held while something outside is asked.
#[derive(Debug, Default)]
pub(super) struct TimeSlices(Mutex<BTreeMap<GpuUuid, Arc<AsyncMutex<()>>>>);

impl TimeSlices {
    fn of(&self, gpu: &GpuUuid) -> Arc<AsyncMutex<()>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(gpu.clone()).or_default())
    }
}

impl Claims {
    /// Sets what the claim changes. A GPU that can't is told of in an event, unless the claim insists.
    ///
    /// `again` means that an earlier try may have come to anything.
    pub(super) async fn set_time_slices(&self, record: &Record, found: &Found, again: bool) -> Result<(), Failure> {
        for (gpu, _, _) in self.changes_by(record)? {
            let turn = self.slices.of(&gpu);
            let _turn = turn.lock().await;
            let Some((_, without, with)) = self.changes_by(record)?.into_iter().find(|(other, _, _)| *other == gpu)
            else {
                continue;
            };
            if without == with && !again {
                continue;
            }
            if let Err(error) = time_slice::set(&found.installation, &gpu, with).await {
                let asked = record.devices.iter().find(|held| held.gpu == gpu).and_then(|held| held.time_slice);
                let text = format!("the time slice of GPU {gpu} can't be set to {with}: {}", crate::report(&error));
                if asked.is_some_and(|slice| slice.required) {
                    return Err(Failure::Permanent(format!(
                        "{text}; the claim asks for it with required: true, without which its pod would start"
                    )));
                }
                tracing::warn!(%gpu, slice = %with, error = crate::report(&error), "the time slice can't be set");
                self.notices.warn_users(
                    &record.claim,
                    &record.pods,
                    "TimeSliceNotSet",
                    format!("{text}; the pod starts without it"),
                );
            } else {
                tracing::info!(%gpu, slice = %with, "time slice set");
            }
            fault::point("prepare.time-slice-set");
        }
        Ok(())
    }

    /// Gives GPUs back the time slice that they have without the claim. A GPU that can't is only logged: the claim must be
    /// able to go.
    pub(super) async fn restore_time_slices(&self, record: &Record) {
        // Right after the start the GPUs haven't been read yet.
        let mut view = self.view.clone();
        let first = tokio::time::timeout(FIRST_READING, view.wait_for(|view| *view != View::Searching)).await;
        let Ok(Ok(View::Ready(found))) = first.map(|first| first.map(|view| view.clone())) else {
            tracing::warn!("time slices can't be restored while the GPUs can't be read");
            return;
        };
        let gpus: Vec<(GpuUuid, TimeSlice, TimeSlice)> = self.changes_by(record).unwrap_or_default();
        for (gpu, _, _) in gpus {
            let turn = self.slices.of(&gpu);
            let _turn = turn.lock().await;
            let now = self.changes_by(record).unwrap_or_default();
            let Some((_, without, _)) = now.into_iter().find(|(other, without, with)| *other == gpu && without != with)
            else {
                continue;
            };
            match time_slice::set(&found.installation, &gpu, without).await {
                Ok(()) => tracing::info!(%gpu, slice = %without, "time slice restored"),
                Err(error) => {
                    tracing::warn!(%gpu, slice = %without, error = crate::report(&error), "the time slice can't be restored");
                }
            }
        }
    }

    fn changes_by(&self, record: &Record) -> Result<Vec<(GpuUuid, TimeSlice, TimeSlice)>, Failure> {
        self.book().time_slices(record).map_err(|error| broken(&error))
    }
}
