//! What is stale: pure, from what is on the node, what the kubelet and the API server said, and what they said before.
//!
//! Something is stale once the API server has said twice, a grace period apart, that no claim on this node is it, while the
//! kubelet's list, each time, showed no container that uses it. Whoever doesn't answer proves nothing, and neither takes
//! back what was proven before. A prepare begins everything anew.
use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use dra_plugin::ClaimUid;

use super::{
    types::{Answer, Item, Kind, Reason, Verdict},
    uses::Uses,
};

/// The longest time until a claim that is allocated here and that no container uses is asked for again.
const LONGEST_PAUSE: Duration = Duration::from_hours(1);

/// What was observed in one round.
#[derive(Debug)]
pub(crate) struct Evidence {
    /// What containers use, or why that isn't known.
    pub(crate) uses: Result<Uses, String>,
    /// What the API server said of those that were asked for.
    pub(crate) answers: HashMap<ClaimUid, Answer>,
}

/// What was observed before.
#[derive(Debug, Default)]
pub(crate) struct History(HashMap<ClaimUid, Past>);

#[derive(Debug, Default)]
struct Past {
    sighting: Option<Sighting>,
    /// When the API server is worth asking again.
    next: Option<Instant>,
    /// How long it was left in peace last time.
    pause: Duration,
    last: Option<Verdict>,
}

/// That it looked stale.
#[derive(Debug, Clone, Copy)]
struct Sighting {
    since: Instant,
    times: u32,
}

impl Past {
    /// Whatever was known: it is alive.
    fn alive(&mut self) {
        (self.sighting, self.next, self.pause) = (None, None, Duration::ZERO);
    }

    /// It looks stale now.
    fn sighted(&mut self, reason: Reason, now: Instant, grace: Duration) -> Verdict {
        let Sighting { since, times } = self.sighting.unwrap_or(Sighting { since: now, times: 0 });
        self.sighting = Some(Sighting { since, times: times + 1 });
        if times > 0 && now.duration_since(since) >= grace {
            // Where it isn't removed, it is confirmed now and then.
            self.rest(now, grace);
            Verdict::Stale { reason, since }
        } else {
            self.next = Some(since + grace);
            Verdict::Suspect { reason, since }
        }
    }

    /// The API server isn't asked for it for a while, and each time for longer.
    fn rest(&mut self, now: Instant, grace: Duration) {
        self.pause = (self.pause * 2).max(grace).min(LONGEST_PAUSE.max(grace));
        self.next = Some(now + self.pause);
    }
}

/// The claims that the API server is to be asked for: those that no container uses and that were not asked for lately, the
/// first ones first, `most` of them.
pub(crate) fn questions<'a>(
    items: &'a [Item],
    uses: &Uses,
    history: &History,
    now: Instant,
    grace: Duration,
    most: usize,
) -> Vec<&'a Item> {
    let mut due: Vec<(Option<Instant>, &Item)> = items
        .iter()
        .filter(|item| item.claim().is_some() && !was_asked(item, now, grace) && !uses.has(&item.uid, item.claim()))
        .map(|item| (history.0.get(&item.uid).and_then(|past| past.next), item))
        .filter(|(next, _)| next.is_none_or(|next| next <= now))
        .collect();
    due.sort_by_key(|(next, _)| *next);
    due.into_iter().map(|(_, item)| item).take(most).collect()
}

/// What is to be thought of each, in their order.
pub(crate) fn judge(
    items: &[Item],
    evidence: &Evidence,
    history: &mut History,
    now: Instant,
    grace: Duration,
) -> Vec<Verdict> {
    let there: HashSet<&ClaimUid> = items.iter().map(|item| &item.uid).collect();
    history.0.retain(|uid, _| there.contains(uid));
    items
        .iter()
        .map(|item| {
            let past = history.0.entry(item.uid.clone()).or_default();
            let verdict = one(item, evidence, past, now, grace);
            past.last = Some(verdict.clone());
            verdict
        })
        .collect()
}

fn one(item: &Item, evidence: &Evidence, past: &mut Past, now: Instant, grace: Duration) -> Verdict {
    let is_overtaken = |sighting: Sighting| item.asked.is_some_and(|asked| asked >= sighting.since);
    if past.sighting.is_some_and(is_overtaken) {
        past.alive();
    }
    if was_asked(item, now, grace) {
        past.alive();
        return Verdict::Asked;
    }
    let uses = match &evidence.uses {
        Ok(uses) => uses,
        Err(reason) => return Verdict::Unknown(reason.clone()),
    };
    if uses.has(&item.uid, item.claim()) {
        past.alive();
        return Verdict::InUse;
    }
    if matches!(item.kind, Kind::Spec) {
        return past.sighted(Reason::NoRecord, now, grace);
    }
    if item.claim().is_none() {
        return Verdict::Unknown("the file doesn't say whose it is".to_owned());
    }
    match evidence.answers.get(&item.uid) {
        Some(Answer::Here(_)) => {
            past.sighting = None;
            past.rest(now, grace);
            Verdict::Allocated
        }
        Some(Answer::Stale(reason)) if is_proof(item, *reason) => past.sighted(*reason, now, grace),
        Some(Answer::Stale(_)) => {
            past.rest(now, grace);
            Verdict::Unknown("the API server knows no such claim, but the damaged file may name a wrong one".to_owned())
        }
        Some(Answer::Unknown(reason)) => Verdict::Unknown(reason.clone()),
        None => {
            past.last.clone().unwrap_or_else(|| Verdict::Unknown("the API server has not been asked yet".to_owned()))
        }
    }
}

/// Whether an answer about the claim that an item names is one about the item. That a claim of some name doesn't exist says
/// nothing where the name itself may be damaged.
pub(crate) fn is_proof(item: &Item, reason: Reason) -> bool {
    match &item.kind {
        Kind::Quarantined { is_sure: false, .. } => reason.has_claim(),
        Kind::Quarantined { .. } | Kind::Record(_) | Kind::Spec => true,
    }
}

fn was_asked(item: &Item, now: Instant, grace: Duration) -> bool {
    item.asked.is_some_and(|asked| now.saturating_duration_since(asked) < grace)
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
