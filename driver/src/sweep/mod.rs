//! Removes what is left on the node of claims that are gone, once that is proven.
//!
//! ```text
//! records, quarantine, specs (Claims) ─┐
//! what containers use (kubelet) ───────┼─> judge (pure, with its history) ─> act, in the claim's turn: unprepare
//! the claim itself (API server) ───────┘          └─> Report: status, metrics
//! ```
//! Nothing on the node is nothing to ask: an empty node makes no call. Otherwise a round is one list from the kubelet, and
//! one read from the API server for each claim that no container uses, as often as `judge` finds worth it.
pub(crate) mod report;
pub(crate) mod types;

mod act;
mod ask;
mod judge;
mod note;
mod uses;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use dra_plugin::{ClaimUid, Turns};
use tokio::{sync::watch, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

pub(crate) use self::ask::Asker;
use self::{
    act::{Hands, Outcome, age, ask_all},
    judge::{Evidence, History, judge, questions},
    report::{Judged, Report},
    types::{Answer, Item, Kind, Reason, Verdict},
};
use crate::{
    args::{SweepArgs, SweepMode},
    claim::{Claims, Kept},
    notices::Notices,
    roots::Roots,
    sharing::{
        guard::{Procfs, Turn},
        guarding::Library,
        limits::socket::Socket,
    },
};

/// Whoever has it sweeps.
const LOCK: &str = "sweep";
/// How soon another driver's end is noticed, where it swept: in a rolling update, `status` asks the new one then.
const TAKE_OVER: Duration = Duration::from_secs(10);
/// How many claims a round asks the API server for; the rest follow in the next ones.
const MOST_QUESTIONS: usize = 512;
/// How many a round removes.
const MOST_REMOVED: usize = 512;

/// What the sweep works with.
pub(crate) struct Settings {
    pub(crate) args: SweepArgs,
    pub(crate) roots: Roots,
    pub(crate) claims: Arc<Claims>,
    pub(crate) asker: Asker,
    pub(crate) turns: Turns,
    pub(crate) notices: Notices,
    pub(crate) procfs: Procfs,
    pub(crate) library: Library,
}

/// Sweeps until `stop`. Of several drivers on a node, one does.
pub(crate) async fn run(settings: Settings, reports: watch::Sender<Report>, stop: CancellationToken) {
    let Settings { args, roots, claims, asker, turns, notices, procfs, library } = settings;
    let SweepArgs { mode, interval, grace } = args;
    if mode == SweepMode::Off {
        return;
    }
    let mut turn = match Turn::open(&roots.run, LOCK) {
        Ok(turn) => turn,
        Err(error) => {
            tracing::error!(error = crate::report(&error), "nothing is swept: drivers on this node can't take turns");
            return;
        }
    };
    let hands = Hands { claims, asker, turns, kubelet: roots.kubelet, procfs, library };
    let mut sweep = Sweep {
        mode,
        grace,
        hands: Arc::new(hands),
        notices,
        history: History::default(),
        told: BTreeSet::new(),
        is_troubled: false,
        reports: reports.clone(),
    };
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut serving = None;
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        if !turn.is_ours() {
            ticks.reset_after(TAKE_OVER.min(interval));
            continue;
        }
        if serving.is_none() {
            match Socket::bind(&roots.run, report::SOCKET) {
                Ok(socket) => {
                    let served = report::serve(socket, reports.subscribe(), mode, grace, stop.clone());
                    serving = Some(tokio::spawn(served));
                }
                Err(error) => tracing::warn!(error = crate::report(&error), "aliquot-driver status can't be told"),
            }
        }
        if stop.run_until_cancelled(sweep.round()).await.is_none() {
            break;
        }
    }
    if let Some(serving) = serving {
        let _ = serving.await;
    }
}

struct Sweep {
    mode: SweepMode,
    grace: Duration,
    hands: Arc<Hands>,
    notices: Notices,
    history: History,
    /// What was reported as stale and still is.
    told: BTreeSet<ClaimUid>,
    is_troubled: bool,
    reports: watch::Sender<Report>,
}

impl Sweep {
    async fn round(&mut self) {
        let items = match self.hands.claims.look_after() {
            Ok(kept) => self.items(kept),
            Err(error) => {
                tracing::warn!(error = crate::report(&error), "the records can't be read; nothing is swept");
                return;
            }
        };
        let (evidence, now) = if items.is_empty() {
            (Evidence { uses: Ok(uses::Uses::default()), answers: HashMap::new() }, Instant::now())
        } else {
            self.look(&items).await
        };
        let verdicts = judge(&items, &evidence, &mut self.history, now, self.grace);
        let api_silent = evidence.answers.values().filter(|answer| matches!(answer, Answer::Unknown(_))).count() as u64;
        let quarantined = items.iter().filter(|item| matches!(item.kind, Kind::Quarantined { .. })).count();
        let judged = items.iter().zip(&verdicts).map(|(item, verdict)| Judged {
            uid: item.uid.clone(),
            is_spec: matches!(item.kind, Kind::Spec),
            verdict: verdict.clone(),
        });
        let judged = judged.collect();
        self.reports.send_modify(|report| {
            report.verdicts = Arc::new(judged);
            report.quarantined = quarantined;
            report.kubelet_silent += u64::from(evidence.uses.is_err());
            report.api_silent += api_silent;
            report.at = Some(now);
        });
        let stale: Vec<(Item, Reason, Instant)> = items
            .into_iter()
            .zip(verdicts)
            .filter_map(|(item, verdict)| match verdict {
                Verdict::Stale { reason, since } => Some((item, reason, since)),
                _ => None,
            })
            .collect();
        self.told.retain(|uid| stale.iter().any(|(item, _, _)| item.uid == *uid));
        match self.mode {
            SweepMode::Act => self.remove(stale).await,
            SweepMode::Report => self.tell(stale),
            SweepMode::Off => {}
        }
    }

    /// What there is, with what is known to be held for it.
    fn items(&self, kept: Kept) -> Vec<Item> {
        let Kept { records, quarantined, specs, mut asked } = kept;
        let mut item = |uid: ClaimUid, kind, devices| Item { asked: asked.remove(&uid), uid, kind, devices };
        let mut items = Vec::with_capacity(records.len() + quarantined.len() + specs.len());
        for record in records {
            let devices = record.devices.iter().map(|held| held.device.clone()).collect();
            items.push(item(record.claim.uid().clone(), Kind::Record(record), devices));
        }
        for file in quarantined {
            let devices = self.hands.claims.held_in_quarantine(&file);
            let kind = Kind::Quarantined { claim: file.whose, is_sure: file.is_intact };
            items.push(item(file.uid, kind, devices));
        }
        items.extend(specs.into_iter().map(|uid| item(uid, Kind::Spec, BTreeSet::new())));
        items
    }

    /// One list from the kubelet, and what the API server says of those that it doesn't show.
    async fn look(&mut self, items: &[Item]) -> (Evidence, Instant) {
        let uses = self.hands.uses().await;
        if let Err(reason) = &uses {
            if !std::mem::replace(&mut self.is_troubled, true) {
                tracing::warn!(reason, "the kubelet doesn't say what containers use; nothing is swept until it does");
            }
        } else {
            self.is_troubled = false;
        }
        let mut answers = HashMap::new();
        if let Ok(uses) = &uses {
            let asked = questions(items, uses, &self.history, Instant::now(), self.grace, MOST_QUESTIONS);
            let asked = asked.into_iter().cloned().collect();
            answers.extend(ask_all(&self.hands.asker, asked).await);
            self.learn(items, uses, &answers);
        }
        (Evidence { uses, answers }, Instant::now())
    }

    /// What damaged records hold, from those who know.
    fn learn(&self, items: &[Item], uses: &uses::Uses, answers: &HashMap<ClaimUid, Answer>) {
        for item in items.iter().filter(|item| matches!(item.kind, Kind::Quarantined { .. })) {
            let mut devices = uses.devices(&item.uid);
            if let Some(Answer::Here(here)) = answers.get(&item.uid) {
                devices.extend(here.iter().cloned());
            }
            if !devices.is_empty() {
                self.hands.claims.learn(&item.uid, devices);
            }
        }
    }

    async fn remove(&mut self, stale: Vec<(Item, Reason, Instant)>) {
        let since: HashMap<ClaimUid, Instant> =
            stale.iter().map(|(item, _, since)| (item.uid.clone(), *since)).collect();
        let stale = stale.into_iter().take(MOST_REMOVED).map(|(item, reason, _)| (item, reason)).collect();
        let mut removed = 0;
        for (item, outcome) in self.hands.remove(stale).await {
            let claim = item.claim().map(ToString::to_string);
            match outcome {
                Outcome::Removed(reason) => {
                    self.reports.send_modify(|report| *report.removed.entry(reason).or_default() += 1);
                    let for_ = since.get(&item.uid).map(|since| age(*since)).unwrap_or_default();
                    let text = note::stale(&item, reason, for_, true);
                    tracing::info!(claim, claim.uid = %item.uid, reason = reason.label(), "{text}");
                    if removed < note::MOST {
                        let whom = item.claim().filter(|_| reason.has_claim());
                        self.notices.tell_swept(whom, "StaleClaimRemoved", text);
                    }
                    removed += 1;
                }
                Outcome::Spared(why) => tracing::info!(claim, claim.uid = %item.uid, "not swept: {why}"),
                Outcome::Failed(why) => {
                    tracing::error!(claim, claim.uid = %item.uid, error = why, "stale, and can't be removed yet");
                }
            }
        }
        if removed > note::MOST {
            self.notices.tell_swept(None, "StaleClaimRemoved", note::more(removed - note::MOST, true));
        }
    }

    /// Says of each once that it is stale.
    fn tell(&mut self, stale: Vec<(Item, Reason, Instant)>) {
        let mut told = 0;
        for (item, reason, since) in stale {
            if !self.told.insert(item.uid.clone()) {
                continue;
            }
            let text = note::stale(&item, reason, age(since), false);
            tracing::warn!(claim.uid = %item.uid, reason = reason.label(), "{text}");
            if told < note::MOST {
                self.notices.warn_node("StaleClaim", text);
            }
            told += 1;
        }
        if told > note::MOST {
            self.notices.warn_node("StaleClaim", note::more(told - note::MOST, false));
        }
    }
}
