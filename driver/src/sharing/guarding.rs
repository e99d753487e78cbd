//! Tells the memory guard whom to watch, and asks NVML for it.
use std::{collections::BTreeMap, sync::Arc, time::Duration};

use aliquot_model::{Gpu, GpuUuid, Memory};
use aliquot_nvml::Questions;
use aliquot_params::policy::{self, GuardMode, Policy};
use dra_plugin::ClaimRef;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::guard::{self, Blind, GpuProcess, GpuReading, Guard, Holding, Pid, Processes, Usage};
use crate::{
    claim::{Claims, Record},
    discovery::View,
    notices::Notices,
    policy::InForce,
};

/// Claims come in bursts; the guard hears of them once.
const SETTLE: Duration = Duration::from_millis(200);
/// How often the claims are looked at where there is somebody to guard: another instance of the driver (a rolling update)
/// tells nobody of those that it prepares. Where nothing has changed, that is one small read.
const LOOK: Duration = Duration::from_secs(10);

/// What whom to watch follows from, and NVML through whichever library discovery has open.
pub(crate) struct Sources {
    pub(crate) claims: Arc<Claims>,
    pub(crate) view: watch::Receiver<View>,
    pub(crate) policy: watch::Receiver<InForce>,
    pub(crate) library: Library,
}

/// Guards what is held in shares, until `stop`.
pub(crate) async fn run(
    sources: Sources,
    settings: guard::Settings,
    client: kube::Client,
    usages: watch::Sender<Usage>,
    stop: CancellationToken,
) {
    let Sources { claims, view, policy, library } = sources;
    let blind = settings.procfs.sight().err();
    let following = Following { claims, view, policy, notices: settings.notices.clone(), blind };
    let (holders, holdings) = watch::channel(Vec::new());
    let guard = Guard::new(settings, client, library, holdings, usages);
    tokio::join!(following.run(holders, stop.clone()), guard.run(stop));
}

struct Following {
    claims: Arc<Claims>,
    view: watch::Receiver<View>,
    policy: watch::Receiver<InForce>,
    notices: Notices,
    /// Why no process can be traced, if none can.
    blind: Option<Blind>,
}

impl Following {
    /// Keeps `holdings` at what is held in shares and is to be watched, until `stop`.
    async fn run(mut self, holdings: watch::Sender<Vec<Holding>>, stop: CancellationToken) {
        let mut holders = self.claims.changes();
        let (mut told, mut troubled) = (false, false);
        loop {
            let (now, in_force) = (self.view.borrow_and_update().clone(), self.policy.borrow_and_update().policy());
            holders.borrow_and_update();
            let wanted = match (&now, &in_force) {
                (View::Ready(found), Some(policy)) => wanted(found.inventory.gpus(), policy),
                // What can't be seen is held against nobody.
                _ => Vec::new(),
            };
            if let Some(reason) = self.blind.filter(|_| !wanted.is_empty() && !std::mem::replace(&mut told, true)) {
                guard::warn(&self.notices, reason);
            }
            let guards: BTreeMap<_, _> = wanted
                .into_iter()
                .filter(|(gpu, _)| gpu.process_memory)
                .map(|(gpu, guard)| (gpu.uuid.clone(), guard))
                .collect();
            if guards.is_empty() {
                tell(&holdings, Vec::new());
            } else {
                match self.claims.sharing() {
                    Ok(records) => {
                        troubled = false;
                        tell(&holdings, watched(&records, &guards));
                    }
                    Err(error) if !std::mem::replace(&mut troubled, true) => {
                        let error = crate::report(&error);
                        tracing::warn!(error, "what claims hold can't be read; those that are known stay guarded");
                    }
                    Err(_) => {}
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                Ok(()) = holders.changed() => tokio::time::sleep(SETTLE).await,
                changed = self.view.changed() => if changed.is_err() { return },
                Ok(()) = self.policy.changed() => {}
                () = tokio::time::sleep(LOOK), if !guards.is_empty() => {}
            }
        }
    }
}

fn tell(holdings: &watch::Sender<Vec<Holding>>, watched: Vec<Holding>) {
    holdings.send_if_modified(|last| {
        let is_new = *last != watched;
        if is_new {
            *last = watched;
        }
        is_new
    });
}

/// The guard of each GPU that is to have one.
fn wanted<'a>(gpus: &'a [Gpu], policy: &Policy) -> Vec<(&'a Gpu, policy::Guard)> {
    let guard = |gpu: &'a Gpu| Some((gpu, policy.for_gpu(gpu).ok()?.shares?.guard));
    gpus.iter().filter_map(guard).filter(|(_, guard)| guard.mode != GuardMode::Off).collect()
}

/// What each claim holds in shares of each GPU with a guard, added up.
fn watched(records: &[Arc<Record>], guards: &BTreeMap<GpuUuid, policy::Guard>) -> Vec<Holding> {
    let mut limits: BTreeMap<(&ClaimRef, &GpuUuid), (Memory, &Arc<Record>)> = BTreeMap::new();
    for record in records {
        for held in record.devices.iter().filter(|held| !held.admin_access) {
            let Some(share) = held.share else { continue };
            let (limit, _) = limits.entry((&record.claim, &held.gpu)).or_insert((Memory::default(), record));
            *limit = limit.plus(share.takes.memory);
        }
    }
    let holding = |((claim, gpu), (limit, record)): ((&ClaimRef, &GpuUuid), (Memory, &Arc<Record>))| {
        let guard = *guards.get(gpu)?;
        Some(Holding { claim: claim.clone(), gpu: gpu.clone(), limit, guard, pods: record.pods.clone() })
    };
    limits.into_iter().filter_map(holding).collect()
}

/// NVML as the guard asks it, through whichever library discovery has open.
#[derive(Debug, Clone)]
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
        let guards =
            ["GPU-gpu-0", "GPU-gpu-1", "GPU-gpu-2"].map(|gpu| (gpu.parse().unwrap(), policy::Guard::default()));
        let watched = watched(&records, &guards.into());
        let told: Vec<_> = watched.iter().map(|held| (held.gpu.as_str(), held.limit.bytes() >> 30)).collect();
        assert_eq!(told, [("GPU-gpu-0", 20), ("GPU-gpu-1", 4)]);
    }
}
