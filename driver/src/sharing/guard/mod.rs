//! The memory guard: notices claims that use more of a GPU than their share, and does what their policy says.
//!
//! Shares of a GPU take turns, and nothing in the hardware holds a process to its part of the memory.
//!
//! ```text
//! Processes (NVML) ─┐
//! procfs: cgroup ───┼─> attribute ──> judge ──> act: event, eviction, kill
//! holdings, pods ───┘       └──────────┴─────> Usage (metrics)
//! ```
//! `cgroup`, `attribute` and `judge` are pure. A process that can't be traced to a claim on that GPU is counted and never
//! touched; what couldn't be read, from NVML, procfs or the API server, is held against nobody.
pub mod act;
pub mod attribute;
pub mod cgroup;
pub mod judge;
mod kill;
mod note;
mod pods;
pub mod process;
#[cfg(test)]
mod testing;
mod trouble;
pub mod types;
mod usage;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::{Duration, Instant},
};

use aliquot_model::GpuUuid;
use kube::runtime::events::Reporter;
use tokio::{
    sync::watch::{self, error::RecvError},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

pub use self::{
    act::Actions,
    attribute::Unattributed,
    types::{GpuProcess, GpuReading, GuardMode, GuardPolicy, Holding, Key, Pid, Processes},
    usage::{ShareUsage, Usage},
};
use self::{
    act::Hands,
    attribute::{Attribution, Located, attribute},
    cgroup::PodUid,
    judge::{Judge, Verdict},
    pods::Pods,
    process::{Origins, Procfs, Ticks},
    trouble::Troubles,
};
use crate::roots::Roots;

/// How often GPUs are read where nothing else is said.
pub const INTERVAL: Duration = Duration::from_secs(2);

/// What a guard needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where procfs is.
    pub roots: Roots,
    /// What the kubelet was given as `--cgroup-root`, where the driver can't find it out.
    pub cgroup_root: Option<PathBuf>,
    /// How often the GPUs are read.
    pub interval: Duration,
    /// Who reports events.
    pub driver: String,
    /// On which node.
    pub node: String,
}

/// Watches over the shares of a node's GPUs.
pub struct Guard<P> {
    interval: Duration,
    processes: P,
    holdings: watch::Receiver<Vec<Holding>>,
    usage: watch::Sender<Usage>,
    procfs: Procfs,
    origins: Origins,
    pods: Pods,
    judge: Judge,
    hands: Hands,
    troubles: Troubles,
}

impl<P: Processes> Guard<P> {
    /// A guard over `holdings`, which tells its figures to `usage`.
    pub fn new(
        settings: Settings,
        client: kube::Client,
        processes: P,
        holdings: watch::Receiver<Vec<Holding>>,
        usage: watch::Sender<Usage>,
    ) -> Self {
        let Settings { roots, cgroup_root, interval, driver, node } = settings;
        let procfs = Procfs::open(&roots.proc, cgroup_root.as_deref());
        let reporter = Reporter { controller: driver, instance: Some(node) };
        Self {
            interval,
            processes,
            holdings,
            usage,
            procfs: procfs.clone(),
            origins: Origins::default(),
            pods: Pods::new(client.clone()),
            judge: Judge::default(),
            hands: Hands::new(client, reporter, procfs),
            troubles: Troubles::default(),
        }
    }

    /// Guards until `stop`, or until nobody can change the holdings any more. While there are none, it does nothing.
    pub async fn run(mut self, stop: CancellationToken) {
        // The end may come in the middle of a tick: a verdict is then begun anew by the next driver.
        let _ = stop.run_until_cancelled(self.guard()).await;
    }

    async fn guard(&mut self) -> Result<(), RecvError> {
        loop {
            self.holdings.wait_for(|holdings| !holdings.is_empty()).await?;
            self.watch_over().await?;
            self.judge = Judge::default();
            self.origins = Origins::default();
            self.publish(&Attribution::default(), BTreeSet::new());
        }
    }

    /// Reads again and again while there is a holding. A holding that is new or gone is seen at the next tick.
    async fn watch_over(&mut self) -> Result<(), RecvError> {
        let mut ticks = interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                none = self.holdings.wait_for(Vec::is_empty) => return none.map(|_| ()),
                _ = ticks.tick() => {}
            }
            let holdings = self.holdings.borrow().clone();
            self.tick(&holdings).await;
        }
    }

    async fn tick(&mut self, holdings: &[Holding]) {
        let gpus: BTreeSet<GpuUuid> = holdings.iter().map(|holding| holding.gpu.clone()).collect();
        let begun = Ticks::now();
        let readings = self.read(&gpus).await;
        let located = self.locate(readings, begun);
        let unread = &gpus - &located.iter().map(|reading| reading.gpu.clone()).collect();
        // Judged by the time at which it was read, however long the API server takes.
        let now = tokio::time::Instant::now().into_std();

        self.pods.look_up(holdings, &located, now).await;
        let found = attribute(&located, &self.pods.complete(holdings));
        self.observe(&found, &unread, now);
        let due = self.judge.due(&found, now);
        let found =
            if due.is_empty() { found } else { self.confirm(due, holdings, &located, &unread, begun, now).await };

        let seen = located.iter().flat_map(|reading| &reading.processes);
        self.hands.forget_all_but(&seen.filter_map(|(_, origin)| origin.pod.as_ref()).map(PodUid::as_str).collect());
        self.publish(&found, unread);
    }

    /// Asks the API server once more who may use the claims on the GPUs in question, and acts on what is still due then.
    /// A pod that is known by one claim may hold another since; without an answer nothing is done.
    async fn confirm(
        &mut self,
        due: Vec<Verdict>,
        holdings: &[Holding],
        located: &[Located],
        unread: &BTreeSet<GpuUuid>,
        begun: Ticks,
        now: Instant,
    ) -> Attribution {
        let gpus = due.iter().map(|verdict| &verdict.key.gpu).collect();
        let confirmed = self.pods.refresh(holdings, &gpus, now).await;
        let found = attribute(located, &self.pods.complete(holdings));
        self.observe(&found, unread, now);
        if confirmed {
            for verdict in self.judge.due(&found, now).iter().filter(|verdict| gpus.contains(&verdict.key.gpu)) {
                self.judge.acted(&verdict.key, now);
                self.hands.carry_out(verdict, begun).await;
            }
        }
        found
    }

    fn observe(&mut self, found: &Attribution, unread: &BTreeSet<GpuUuid>, now: Instant) {
        for ended in self.judge.observe(found, unread, now) {
            let claims: Vec<String> = ended.key.claims.iter().map(ToString::to_string).collect();
            let (gpu, claims, seconds) = (ended.key.gpu.as_str(), claims.join(", "), ended.lasted.as_secs());
            tracing::info!(gpu, claims, seconds, "claims are back within their share of a GPU's memory");
        }
    }

    async fn read(&mut self, gpus: &BTreeSet<GpuUuid>) -> BTreeMap<GpuUuid, Vec<GpuProcess>> {
        let answer = self.processes.read(gpus.iter().cloned().collect()).await;
        let readings = self.troubles.readings(answer);
        readings.into_iter().filter(|(gpu, _)| gpus.contains(gpu)).collect()
    }

    fn locate(&mut self, readings: BTreeMap<GpuUuid, Vec<GpuProcess>>, begun: Ticks) -> Vec<Located> {
        let pids: BTreeSet<Pid> = readings.values().flatten().map(|process| process.pid).collect();
        let (origins, procfs) = (&mut self.origins, &self.procfs);
        origins.retain(|pid| pids.contains(&pid));
        // A process may use several GPUs.
        let found: BTreeMap<Pid, _> =
            pids.into_iter().filter_map(|pid| Some((pid, origins.find(procfs, pid, begun)?))).collect();
        self.troubles.found(readings.values().any(|list| !list.is_empty()), found.is_empty());
        let located = readings.into_iter().map(|(gpu, processes)| {
            let here = processes.into_iter().filter_map(|process| Some((process, found.get(&process.pid)?.clone())));
            Located { gpu, processes: here.collect() }
        });
        located.collect()
    }

    fn publish(&self, found: &Attribution, unread: BTreeSet<GpuUuid>) {
        self.usage.send_replace(Usage::new(found, &self.judge, unread, self.hands.done));
    }
}

#[cfg(test)]
mod tests;
