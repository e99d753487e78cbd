//! Removes what is stale, after looking once more in the claim's turn: whatever has come in between wins.
use std::{collections::BTreeSet, sync::Arc, time::Duration};

use aliquot_model::GpuUuid;
use dra_plugin::{ClaimRef, ClaimUid, Turns};
use futures::{FutureExt as _, StreamExt as _, stream};

use super::{
    ask::Asker,
    judge::is_proof,
    types::{Answer, Item, Kind, Reason},
    uses::Uses,
};
use crate::{
    claim::{Claims, Record},
    podresources::{self, Asking},
    sharing::{
        guard::{Processes as _, Procfs},
        guarding::Library,
    },
};

/// How long the kubelet may take: nobody waits for the sweep.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many claims are removed with one more look at the kubelet.
const BATCH: usize = 64;
/// How many claims are asked for and removed at a time.
pub(crate) const AT_A_TIME: usize = 8;

/// What removing needs.
pub(crate) struct Hands {
    pub(crate) claims: Arc<Claims>,
    pub(crate) asker: Asker,
    pub(crate) turns: Turns,
    pub(crate) kubelet: std::path::PathBuf,
    pub(crate) procfs: Procfs,
    pub(crate) library: Library,
}

/// What came of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is gone, for this reason.
    Removed(Reason),
    /// It isn't stale after all, or that isn't proven any more.
    Spared(String),
    /// It can't be removed yet.
    Failed(String),
}

impl Hands {
    /// What containers use now.
    pub(crate) async fn uses(&self) -> Result<Uses, String> {
        let listing = async { Asking::begin(&self.kubelet).await?.pods().await };
        let pods = podresources::within(PATIENCE, listing).await.map_err(|error| crate::report(&error))?;
        Ok(Uses::of(&pods, &self.asker.driver, &self.claims.cdi_kind()))
    }

    /// Removes each, in its claim's turn; what came of them, in no order.
    pub(crate) async fn remove(self: &Arc<Self>, stale: Vec<(Item, Reason)>) -> Vec<(Item, Outcome)> {
        let mut outcomes = Vec::with_capacity(stale.len());
        for batch in stale.chunks(BATCH) {
            let uses = match self.uses().await {
                Ok(uses) => uses,
                Err(reason) => {
                    outcomes.extend(batch.iter().map(|(item, _)| (item.clone(), Outcome::Spared(reason.clone()))));
                    continue;
                }
            };
            let busy = self.busy(batch).await;
            let mut removing = Vec::with_capacity(batch.len());
            for (item, reason) in batch.iter().cloned() {
                if uses.has(&item.uid, item.claim()) || is_busy(&item, &busy) {
                    outcomes.push((item, Outcome::Spared("a container or process on this node uses it".to_owned())));
                    continue;
                }
                let (hands, uid) = (Arc::clone(self), item.uid.clone());
                let turns = self.turns.clone();
                let work = async move {
                    let outcome = hands.one(&item, reason).await;
                    (item, outcome)
                };
                // Its place in the queue is taken when it is its turn among these.
                removing.push(async move { turns.take(&uid, work).await }.boxed());
            }
            let mut removing = stream::iter(removing).buffer_unordered(AT_A_TIME);
            while let Some(done) = removing.next().await {
                outcomes.extend(done);
            }
        }
        outcomes
    }

    async fn one(&self, item: &Item, reason: Reason) -> Outcome {
        let moved = || self.claims.has_moved(&item.uid, item.asked, item.record().map(AsRef::as_ref));
        if moved() {
            return Outcome::Spared("the kubelet has asked for it meanwhile".to_owned());
        }
        let (claim, reason) = match (&item.kind, item.claim()) {
            (Kind::Spec, _) => return self.spec(&item.uid, reason),
            (_, None) => return Outcome::Spared("it names no claim".to_owned()),
            (_, Some(claim)) => match self.asker.ask(item).await {
                Answer::Stale(now) if is_proof(item, now) => (claim, now),
                Answer::Stale(_) | Answer::Here(_) => return Outcome::Spared("the claim is live".to_owned()),
                Answer::Unknown(why) => return Outcome::Spared(why),
            },
        };
        // Another instance of the driver has turns of its own.
        if moved() {
            return Outcome::Spared("the kubelet has asked for it meanwhile".to_owned());
        }
        self.record(claim, item.record().map(AsRef::as_ref), reason).await
    }

    async fn record(&self, claim: &ClaimRef, judged: Option<&Record>, reason: Reason) -> Outcome {
        match self.claims.remove_stale(claim, judged).await {
            Ok(true) => Outcome::Removed(reason),
            Ok(false) => Outcome::Spared("its record has changed meanwhile".to_owned()),
            Err(error) => Outcome::Failed(crate::report(&error)),
        }
    }

    fn spec(&self, uid: &ClaimUid, reason: Reason) -> Outcome {
        match self.claims.remove_spec(uid) {
            Ok(true) => Outcome::Removed(reason),
            Ok(false) => Outcome::Spared("there is a record by now".to_owned()),
            Err(error) => Outcome::Failed(crate::report(&error)),
        }
    }

    /// The UIDs of pods with processes on the GPUs of these; none where that can't be known.
    async fn busy(&self, items: &[(Item, Reason)]) -> BTreeSet<(GpuUuid, String)> {
        let records = items.iter().filter_map(|(item, _)| item.record());
        // A virtual machine's GPU is none of NVML's: its pod is in the kubelet's list or nowhere.
        let known = records.flat_map(|record| &record.devices).filter(|held| held.vfio.is_none());
        let gpus: BTreeSet<GpuUuid> = known.map(|held| held.gpu.clone()).collect();
        if gpus.is_empty() || self.procfs.sight().is_err() {
            return BTreeSet::new();
        }
        let readings = self.library.read(gpus.into_iter().collect()).await.unwrap_or_default();
        let mut busy = BTreeSet::new();
        for (gpu, processes) in readings {
            for process in processes.into_iter().flatten() {
                if let Ok(Some(pod)) = self.procfs.pod(process.pid) {
                    busy.insert((gpu.clone(), pod.as_str().to_owned()));
                }
            }
        }
        busy
    }
}

/// Whether a process of a pod that the claim was reserved for is on a GPU that it holds.
fn is_busy(item: &Item, busy: &BTreeSet<(GpuUuid, String)>) -> bool {
    let Some(record) = item.record() else { return false };
    record.devices.iter().any(|held| record.pods.iter().any(|pod| busy.contains(&(held.gpu.clone(), pod.uid.clone()))))
}

/// Asks for each, a few at a time.
pub(crate) async fn ask_all(asker: &Asker, items: Vec<Item>) -> Vec<(ClaimUid, Answer)> {
    let asking = items.into_iter().map(|item| {
        let asker = asker.clone();
        async move {
            let answer = asker.ask(&item).await;
            (item.uid, answer)
        }
        .boxed()
    });
    stream::iter(asking.collect::<Vec<_>>()).buffer_unordered(AT_A_TIME).collect().await
}

/// How long something has looked stale.
pub(crate) fn age(since: std::time::Instant) -> Duration {
    since.elapsed()
}
