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
mod turn;
pub mod types;
mod usage;

use std::{
    collections::{BTreeMap, BTreeSet},
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
    process::{Blind, Procfs},
    turn::Turn,
    types::{GpuProcess, GpuReading, GuardMode, GuardPolicy, Holding, Key, Pid, Processes},
    usage::{ShareUsage, Usage},
};
use self::{
    act::Hands,
    attribute::{Attribution, Located, attribute},
    cgroup::PodUid,
    judge::{Judge, Verdict},
    note::Outcome,
    pods::Pods,
    process::{Origins, Ticks},
    trouble::Troubles,
};
use crate::notices::Notices;

/// How often GPUs are read where nothing else is said.
pub const INTERVAL: Duration = Duration::from_secs(2);

/// What a guard needs to know.
#[derive(Debug)]
pub struct Settings {
    /// The node's processes.
    pub procfs: Procfs,
    /// Who acts.
    pub turn: Turn,
    /// How often the GPUs are read.
    pub interval: Duration,
    /// Who reports events.
    pub driver: String,
    /// On which node.
    pub node: String,
    /// Where the node's administrators are told.
    pub notices: Notices,
}

/// Watches over the shares of a node's GPUs.
pub struct Guard<P> {
    interval: Duration,
    turn: Turn,
    processes: P,
    holdings: watch::Receiver<Vec<Holding>>,
    usage: watch::Sender<Usage>,
    procfs: Procfs,
    origins: Origins,
    /// Listed last time and not in procfs: ended in between, or hidden from it.
    absent: BTreeSet<Pid>,
    blind: Option<Blind>,
    notices: Notices,
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
        let Settings { procfs, turn, interval, driver, node, notices } = settings;
        let reporter = Reporter { controller: driver, instance: Some(node) };
        Self {
            interval,
            turn,
            processes,
            holdings,
            usage,
            procfs: procfs.clone(),
            origins: Origins::default(),
            absent: BTreeSet::new(),
            blind: None,
            notices,
            pods: Pods::new(client.clone()),
            judge: Judge::new(interval),
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
        self.blind = self.procfs.sight().err();
        self.publish(&Attribution::default(), BTreeSet::new());
        loop {
            self.holdings.wait_for(|holdings| !holdings.is_empty()).await?;
            self.watch_over().await?;
            self.judge = Judge::new(self.interval);
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
        let found = if due.is_empty() || !self.turn.is_ours() {
            found
        } else {
            self.confirm(due, holdings, &located, &unread, begun, now).await
        };

        let seen = located.iter().flat_map(|reading| &reading.processes);
        let seen = seen.filter_map(|(_, origin)| origin.pod.as_ref()).map(PodUid::as_str).collect();
        self.hands.forget_all_but(&seen, &unread);
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
            let mut due = self.judge.due(&found, now);
            due.retain(|verdict| gpus.contains(&verdict.key.gpu));
            let outcomes = self.hands.carry_out(&due, begun).await;
            let acted = tokio::time::Instant::now().into_std();
            for (verdict, outcome) in due.iter().zip(&outcomes) {
                match outcome {
                    Some(Outcome::NotEvicted(_)) => self.judge.refused(&verdict.key, acted),
                    _ => self.judge.acted(&verdict.key, acted),
                }
            }
            self.hands.tell_all(&due, &outcomes).await;
        }
        found
    }

    fn observe(&mut self, found: &Attribution, unread: &BTreeSet<GpuUuid>, now: Instant) {
        for ended in self.judge.observe(found, unread, now) {
            let claims: Vec<String> = ended.key.claims.iter().map(ToString::to_string).collect();
            let (gpu, claims, seconds) = (ended.key.gpu.as_str(), claims.join(", "), ended.lasted.as_secs());
            if ended.gone {
                tracing::info!(gpu, claims, seconds, "claims that were over their share of a GPU's memory are gone");
            } else {
                tracing::info!(gpu, claims, seconds, "claims are back within their share of a GPU's memory");
            }
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
            pids.iter().filter_map(|pid| Some((*pid, origins.find(procfs, *pid, begun)?))).collect();
        self.see(!pids.is_empty(), !found.is_empty());
        let absent: BTreeSet<Pid> = pids.into_iter().filter(|pid| !found.contains_key(pid)).collect();
        // What had ended in between is not listed again.
        let hidden = &absent & &self.absent;
        self.absent = absent;
        let located = readings.into_iter().map(|(gpu, listed)| {
            let mut located = Located { gpu, processes: Vec::new(), untraced: Vec::new() };
            for process in listed {
                match found.get(&process.pid) {
                    Some(origin) => located.processes.push((process, origin.clone())),
                    None if hidden.contains(&process.pid) => located.untraced.push(process),
                    None => {}
                }
            }
            located
        });
        located.collect()
    }

    /// Tells when the guard goes blind, and when it sees again.
    fn see(&mut self, listed: bool, traced: bool) {
        let blind = self.troubles.traced(listed, traced);
        if blind == self.blind {
            return;
        }
        if let Some(reason) = blind {
            warn(&self.notices, reason);
        } else {
            let note = "processes that use GPUs can be traced again, and shares are guarded";
            tracing::info!("{note}");
            self.notices.tell_node("GuardSees", note.to_owned());
        }
        self.blind = blind;
    }

    fn publish(&self, found: &Attribution, unread: BTreeSet<GpuUuid>) {
        let usage = Usage::of(found, &self.judge);
        self.usage.send_replace(Usage { unread, blind: self.blind, actions: self.hands.done, ..usage });
    }
}

/// Tells a node's administrators that shares aren't guarded.
pub(crate) fn warn(notices: &Notices, reason: Blind) {
    let note = format!("no share of a GPU is guarded: {reason}");
    tracing::error!("{note}");
    notices.warn_node("GuardBlind", note);
}

/// Ways in for the fuzzer.
#[cfg(fuzzing)]
pub mod fuzzing {
    /// The pod that a cgroup names, seen by a process of the first one.
    pub fn pod_of(own: &str, text: &str) -> Option<String> {
        super::cgroup::Kubepods::find(own, own, None).pod_of(text).map(|pod| pod.to_string())
    }

    /// The start time in a process's stat.
    pub fn start_in(text: &str) {
        let _ = super::process::start_in(text);
    }
}

#[cfg(test)]
mod tests;
