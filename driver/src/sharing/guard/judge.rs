//! When a claim has been over its share for too long, and what is to be done: a state machine without a clock.
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use aliquot_model::{GpuUuid, Memory};

use super::{
    attribute::{Attribution, ProcessUse, Share},
    process::Ticks,
    types::{GuardMode, GuardPolicy, Key, Pid, Pod},
};

/// How often an excess that is only observed is told again: before an event ends (`--event-ttl`, an hour), and no more,
/// since it may last for days.
const OBSERVED_AGAIN: Duration = Duration::from_mins(30);
/// After so many readings an action shows in the figures: memory is freed some time after its process was killed.
const SETTLED: u32 = 3;
/// Readings that are further apart than so many intervals, and than this, leave too much unseen.
const BREAK: (u32, Duration) = (5, Duration::from_secs(10));

/// What is due for one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Who is over.
    pub key: Key,
    /// What they use.
    pub used: Memory,
    /// What they may use.
    pub limit: Memory,
    /// For how long they have been over.
    pub over_for: Duration,
    /// The pod that it is about: the victim's, or the one that uses most.
    pub pod: Pod,
    /// What is to be done.
    pub action: Action,
}

/// What is to be done about an excess.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// To tell of it.
    Observe,
    /// To evict the pod.
    Evict,
    /// To kill a process.
    Kill(Victim),
}

/// The process of a key that uses most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Victim {
    /// Its number.
    pub pid: Pid,
    /// When it was started.
    pub start: Ticks,
    /// What it uses.
    pub used: Memory,
}

/// An excess of which something was told is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Whose.
    pub key: Key,
    /// For how long it lasted.
    pub lasted: Duration,
    /// The claims themselves are gone, or no longer used together.
    pub gone: bool,
}

/// How long each key has been over.
#[derive(Debug)]
pub struct Judge {
    /// Between two readings.
    interval: Duration,
    last: Option<Instant>,
    episodes: BTreeMap<Key, Episode>,
}

#[derive(Debug, Clone, Copy)]
struct Episode {
    since: Instant,
    /// From when on the use was seen to be over without a break, or since the last action. `None` after a reading
    /// failed: what nobody saw is held against nobody.
    waiting_since: Option<Instant>,
    acted: bool,
    /// How often in a row an eviction was refused.
    refusals: u32,
}

impl Judge {
    /// A judge who hears of a reading every `interval`.
    pub fn new(interval: Duration) -> Self {
        Self { interval, last: None, episodes: BTreeMap::new() }
    }

    /// Takes note of a tick; `unread` are the GPUs that couldn't be read in it. Returns what has ended.
    pub fn observe(&mut self, found: &Attribution, unread: &BTreeSet<GpuUuid>, now: Instant) -> Vec<Ended> {
        let longest = BREAK.1.max(self.interval.saturating_mul(BREAK.0));
        if self.last.replace(now).is_some_and(|last| now.saturating_duration_since(last) > longest) {
            for episode in self.episodes.values_mut() {
                episode.waiting_since = None;
            }
        }
        for (key, share) in &found.shares {
            if share.used > share.limit {
                let begun = Episode { since: now, waiting_since: Some(now), acted: false, refusals: 0 };
                let episode = self.episodes.entry(key.clone()).or_insert(begun);
                episode.waiting_since.get_or_insert(now);
            }
        }
        let mut ended = Vec::new();
        self.episodes.retain(|key, episode| {
            if unread.contains(&key.gpu) {
                episode.waiting_since = None;
                // Without an action there is nothing to go on from.
                return episode.acted;
            }
            let share = found.shares.get(key);
            let over = share.is_some_and(|share| share.used > share.limit);
            if !over && episode.acted {
                let lasted = now.saturating_duration_since(episode.since);
                ended.push(Ended { key: key.clone(), lasted, gone: share.is_none() });
            }
            over
        });
        ended
    }

    /// What is due now, by the last [`observe`](Self::observe). It stays due until [`acted`](Self::acted) is called, so
    /// that nothing is lost where acting has to wait.
    pub fn due(&self, found: &Attribution, now: Instant) -> Vec<Verdict> {
        let due = self.episodes.iter().filter_map(|(key, episode)| {
            let share = found.shares.get(key)?;
            let waited = now.saturating_duration_since(episode.waiting_since?);
            if waited < self.patience(share.policy, episode)? || share.used <= share.limit {
                return None;
            }
            let (pod, action) = action(share)?;
            let over_for = now.saturating_duration_since(episode.since);
            Some(Verdict { key: key.clone(), used: share.used, limit: share.limit, over_for, pod, action })
        });
        due.collect()
    }

    /// How long an excess has to last until the next action.
    fn patience(&self, policy: GuardPolicy, episode: &Episode) -> Option<Duration> {
        let grace = policy.grace;
        let again = grace.max(self.interval.saturating_mul(SETTLED));
        match policy.mode {
            GuardMode::Off => None,
            _ if !episode.acted => Some(grace),
            GuardMode::Observe => Some(grace.max(OBSERVED_AGAIN)),
            // A disruption budget may forbid it for days.
            GuardMode::Evict if episode.refusals > 0 => {
                let doubled = again.saturating_mul(1_u32.checked_shl(episode.refusals - 1).unwrap_or(u32::MAX));
                Some(doubled.min(again.max(OBSERVED_AGAIN)))
            }
            GuardMode::Evict | GuardMode::Kill => Some(again),
        }
    }

    /// Something was done for this key; the next is due after another period of grace, and when this one shows.
    pub fn acted(&mut self, key: &Key, now: Instant) {
        if let Some(episode) = self.episodes.get_mut(key) {
            episode.acted = true;
            episode.waiting_since = Some(now);
            episode.refusals = 0;
        }
    }

    /// What was tried for this key was refused; each time the next try is due later.
    pub fn refused(&mut self, key: &Key, now: Instant) {
        let refusals = self.episodes.get(key).map_or(0, |episode| episode.refusals);
        self.acted(key, now);
        if let Some(episode) = self.episodes.get_mut(key) {
            episode.refusals = refusals.saturating_add(1);
        }
    }

    /// Since when a key is over, if it is.
    pub fn over_since(&self, key: &Key) -> Option<Instant> {
        self.episodes.get(key).map(|episode| episode.since)
    }
}

fn action(share: &Share) -> Option<(Pod, Action)> {
    match share.policy.mode {
        GuardMode::Off => None,
        GuardMode::Observe => Some((largest_pod(share)?, Action::Observe)),
        GuardMode::Evict => Some((largest_pod(share)?, Action::Evict)),
        GuardMode::Kill => {
            let larger = |one: &(&Pid, &ProcessUse), other: &(&Pid, &ProcessUse)| {
                // Of equals the first.
                one.1.used.cmp(&other.1.used).then(other.0.cmp(one.0))
            };
            let (pid, process) = share.processes.iter().max_by(larger)?;
            let victim = Victim { pid: *pid, start: process.start, used: process.used };
            Some((process.pod.clone(), Action::Kill(victim)))
        }
    }
}

fn largest_pod(share: &Share) -> Option<Pod> {
    let mut pods: BTreeMap<&Pod, Memory> = BTreeMap::new();
    for process in share.processes.values() {
        let used = pods.entry(&process.pod).or_insert(Memory::from_bytes(0));
        *used = used.plus(process.used);
    }
    let larger = |one: &(&Pod, Memory), other: &(&Pod, Memory)| one.1.cmp(&other.1).then(other.0.cmp(one.0));
    pods.into_iter().max_by(larger).map(|(pod, _)| pod.clone())
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
