//! Tells the memory guard whom to watch, and asks NVML for it.
use std::{collections::BTreeMap, sync::Arc, time::Duration};

use aliquot_model::{GpuUuid, Memory};
use aliquot_nvml::Questions;
use aliquot_params::policy::{self, GuardMode};
use dra_plugin::ClaimRef;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::guard::{GpuProcess, GpuReading, Holding, Pid, Processes};
use crate::{
    claim::{Claims, Record},
    discovery::View,
    policy::InForce,
};

/// Claims come in bursts; the guard hears of them once.
const SETTLE: Duration = Duration::from_millis(200);

/// Keeps `holdings` at what is held in shares and is to be watched, until `stop`.
pub(crate) async fn follow(
    claims: Arc<Claims>,
    mut view: watch::Receiver<View>,
    mut policy: watch::Receiver<InForce>,
    holdings: watch::Sender<Vec<Holding>>,
    stop: CancellationToken,
) {
    let mut holders = claims.changes();
    loop {
        let (now, in_force) = (view.borrow_and_update().clone(), policy.borrow_and_update().policy());
        holders.borrow_and_update();
        let watched = match (now, in_force) {
            (View::Ready(found), Some(policy)) => watched(&claims.sharing(), |gpu| {
                let gpu = found.inventory.gpus().iter().find(|known| known.uuid == *gpu && known.process_memory)?;
                Some(policy.for_gpu(gpu).ok()?.shares?.guard)
            }),
            // What can't be seen is held against nobody.
            _ => Vec::new(),
        };
        holdings.send_if_modified(|last| {
            let is_new = *last != watched;
            if is_new {
                *last = watched;
            }
            is_new
        });
        tokio::select! {
            () = stop.cancelled() => return,
            Ok(()) = holders.changed() => tokio::time::sleep(SETTLE).await,
            changed = view.changed() => if changed.is_err() { return },
            Ok(()) = policy.changed() => {}
        }
    }
}

/// What each claim holds in shares of each GPU, added up, where the GPU's policy wants it watched.
fn watched(records: &[Arc<Record>], guard: impl Fn(&GpuUuid) -> Option<policy::Guard>) -> Vec<Holding> {
    let mut limits: BTreeMap<(&ClaimRef, &GpuUuid), (Memory, &Arc<Record>)> = BTreeMap::new();
    for record in records {
        for held in record.devices.iter().filter(|held| !held.admin_access) {
            let Some(share) = held.share else { continue };
            let (limit, _) = limits.entry((&record.claim, &held.gpu)).or_insert((Memory::default(), record));
            *limit = limit.plus(share.takes.memory);
        }
    }
    let holding = |((claim, gpu), (limit, record)): ((&ClaimRef, &GpuUuid), (Memory, &Arc<Record>))| {
        let guard = guard(gpu).filter(|guard| guard.mode != GuardMode::Off)?;
        Some(Holding { claim: claim.clone(), gpu: gpu.clone(), limit, guard, pods: record.pods.clone() })
    };
    limits.into_iter().filter_map(holding).collect()
}

/// NVML as the guard asks it, through whichever library discovery has open.
#[derive(Debug)]
pub(crate) struct Library {
    pub(crate) questions: watch::Receiver<Option<Questions>>,
    pub(crate) deadline: Duration,
}

impl Processes for Library {
    async fn read(&self, gpus: Vec<GpuUuid>) -> Result<Vec<GpuReading>, String> {
        let questions = self.questions.borrow().clone().ok_or("NVML is not open")?;
        let answers = questions.processes(gpus, self.deadline).await.map_err(|error| crate::report(&error))?;
        let process = |process: aliquot_nvml::GpuProcess| GpuProcess { pid: Pid(process.pid), used: process.used };
        let reading = |answer: aliquot_nvml::GpuProcesses| {
            (answer.gpu, answer.processes.map(|all| all.into_iter().map(process).collect()))
        };
        Ok(answers.into_iter().map(reading).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::testing::{record, share};

    #[test]
    fn a_claims_shares_of_one_gpu_are_added_up_and_whole_gpus_are_not_watched() {
        let mut two = share("u1", "gpu-0", 1, 8);
        two.devices.push(share("u1", "gpu-0", 1, 12).devices.remove(0));
        two.devices.push(share("u1", "gpu-1", 1, 4).devices.remove(0));
        let records = [two, record("u2", &["gpu-2"]), share("u3", "gpu-3", 1, 8)].map(Arc::new);
        let off = policy::Guard { mode: GuardMode::Off, ..policy::Guard::default() };
        let watched = watched(&records, |gpu| match gpu.as_str() {
            "GPU-gpu-3" => Some(off),
            _ => Some(policy::Guard::default()),
        });
        let told: Vec<_> = watched.iter().map(|held| (held.gpu.as_str(), held.limit.bytes() >> 30)).collect();
        assert_eq!(told, [("GPU-gpu-0", 20), ("GPU-gpu-1", 4)]);
    }
}
