//! What the judge does over time.
use proptest::prelude::*;

use super::*;
use crate::sharing::guard::{
    attribute::attribute,
    testing::{gpu, holding, key, located, process},
    types::{GuardPolicy, Holding},
};

const GRACE: Duration = Duration::from_secs(30);
const INTERVAL: Duration = Duration::from_secs(6);

fn held(mode: GuardMode, pods: &[&str]) -> Holding {
    Holding { guard: GuardPolicy { mode, grace: GRACE }, ..holding("a", 0, 8, pods) }
}

/// One tick with processes of (pid, pod, GiB); acts on all that is due.
struct Trial {
    judge: Judge,
    holding: Holding,
    begun: Instant,
    ended: usize,
}

impl Trial {
    fn new(mode: GuardMode) -> Self {
        Self { judge: Judge::new(INTERVAL), holding: held(mode, &["p", "q"]), begun: Instant::now(), ended: 0 }
    }

    fn tick(&mut self, second: u64, processes: &[(u32, &str, u64)]) -> Vec<Verdict> {
        let now = self.begun + Duration::from_secs(second);
        let processes = processes.iter().map(|(pid, pod, used)| process(*pid, pod, Some(*used))).collect();
        let found = attribute(&[located(0, processes)], std::slice::from_ref(&self.holding));
        self.ended += self.judge.observe(&found, &BTreeSet::new(), now).len();
        let due = self.judge.due(&found, now);
        for verdict in &due {
            self.judge.acted(&verdict.key, now);
        }
        due
    }

    fn unread(&mut self, second: u64) {
        let now = self.begun + Duration::from_secs(second);
        self.judge.observe(&Attribution::default(), &BTreeSet::from([gpu(0)]), now);
    }
}

#[test]
fn the_largest_process_is_killed_after_the_grace_and_the_next_after_another() {
    let mut trial = Trial::new(GuardMode::Kill);
    let all = [(2, "p", 6), (3, "q", 9), (4, "q", 9)];
    assert!(trial.tick(0, &all).is_empty());
    assert!(trial.tick(29, &all).is_empty());
    let due = trial.tick(30, &all);
    assert_eq!((due[0].over_for, due[0].pod.uid.as_str()), (GRACE, "q"));
    assert!(matches!(due[0].action, Action::Kill(Victim { pid: Pid(3), .. })), "{due:?}");
    assert!(trial.tick(59, &all[..]).is_empty());
    assert!(matches!(trial.tick(60, &[all[0], all[2]])[0].action, Action::Kill(Victim { pid: Pid(4), .. })));
    assert!(trial.tick(90, &[all[0]]).is_empty());
    assert_eq!(trial.ended, 1);
}

#[test]
fn the_pod_that_uses_most_is_evicted_and_of_equals_the_first_by_name() {
    let mut trial = Trial::new(GuardMode::Evict);
    trial.tick(0, &[(2, "p", 6), (3, "q", 4), (4, "q", 4)]);
    assert_eq!(trial.tick(30, &[(2, "p", 6), (3, "q", 4), (4, "q", 4)])[0].pod.uid, "q");
    assert_eq!(trial.tick(60, &[(2, "p", 8), (3, "q", 4), (4, "q", 4)])[0].pod.uid, "p");
}

#[test]
fn a_break_starts_the_grace_anew() {
    let mut trial = Trial::new(GuardMode::Kill);
    trial.tick(0, &[(2, "p", 9)]);
    trial.tick(20, &[(2, "p", 8)]);
    trial.tick(22, &[(2, "p", 9)]);
    assert!(trial.tick(51, &[(2, "p", 9)]).is_empty());
    assert_eq!(trial.tick(52, &[(2, "p", 9)]).len(), 1);
}

#[test]
fn what_could_not_be_read_is_held_against_nobody() {
    let mut trial = Trial::new(GuardMode::Kill);
    trial.tick(0, &[(2, "p", 9)]);
    trial.unread(20);
    assert!(trial.tick(40, &[(2, "p", 9)]).is_empty());
    assert_eq!(trial.tick(70, &[(2, "p", 9)]).len(), 1);
    trial.unread(90);
    assert!(trial.tick(110, &[(2, "p", 9)]).is_empty());
    assert_eq!(trial.tick(140, &[(2, "p", 9)])[0].over_for, Duration::from_secs(100));
}

#[test]
fn what_nobody_looked_at_for_long_is_held_against_nobody() {
    let mut trial = Trial::new(GuardMode::Kill);
    trial.tick(0, &[(2, "p", 9)]);
    assert!(trial.tick(31, &[(2, "p", 9)]).is_empty(), "five intervals are thirty seconds");
    trial.tick(50, &[(2, "p", 9)]);
    assert_eq!(trial.tick(61, &[(2, "p", 9)])[0].over_for, Duration::from_secs(61));
}

#[test]
fn an_action_is_followed_by_another_only_when_it_has_had_time_to_show() {
    let mut trial = Trial::new(GuardMode::Kill);
    trial.holding.guard.grace = Duration::from_millis(1);
    let due = (0..60).step_by(6).filter(|second| !trial.tick(*second, &[(2, "p", 9)]).is_empty());
    assert_eq!(due.collect::<Vec<_>>(), [6, 24, 42]);
}

#[test]
fn an_eviction_that_is_refused_is_tried_less_and_less_often_until_one_succeeds() {
    let (mut judge, begun) = (Judge::new(INTERVAL), Instant::now());
    let found = attribute(&[located(0, vec![process(2, "p", Some(9))])], &[held(GuardMode::Evict, &["p"])]);
    let mut tries = Vec::new();
    for second in (0..4 * 3600).step_by(6) {
        let now = begun + Duration::from_secs(second);
        judge.observe(&found, &BTreeSet::new(), now);
        for verdict in judge.due(&found, now) {
            judge.refused(&verdict.key, now);
            tries.push(second);
        }
    }
    let pauses: Vec<u64> = tries.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(pauses, [30, 60, 120, 240, 480, 960, 1800, 1800, 1800, 1800, 1800, 1800]);
    let now = begun + Duration::from_hours(4);
    judge.acted(&key(0, &["a"]), now);
    assert_eq!(judge.due(&found, now + GRACE).len(), 1);
}

#[test]
fn an_excess_ends_differently_when_its_claim_is_gone() {
    let (mut judge, begun) = (Judge::new(INTERVAL), Instant::now());
    let held = [held(GuardMode::Observe, &["p"])];
    let (over, none) = (located(0, vec![process(2, "p", Some(9))]), located(0, vec![]));
    let mut ends = |rest: &Attribution| {
        judge.observe(&attribute(std::slice::from_ref(&over), &held), &BTreeSet::new(), begun);
        judge.acted(&key(0, &["a"]), begun);
        judge.observe(rest, &BTreeSet::new(), begun).remove(0).gone
    };
    assert!(!ends(&attribute(std::slice::from_ref(&none), &held)));
    assert!(ends(&attribute(&[none], &[])));
}

#[test]
fn an_excess_that_is_observed_is_told_again_only_before_its_event_is_forgotten() {
    let mut trial = Trial::new(GuardMode::Observe);
    let told = (0..3600).step_by(2).filter(|second| !trial.tick(*second, &[(2, "p", 9)]).is_empty());
    assert_eq!(told.collect::<Vec<_>>(), [30, 1830]);
}

#[test]
fn a_verdict_stays_due_until_it_was_acted_upon() {
    let (mut judge, begun) = (Judge::new(INTERVAL), Instant::now());
    let found = attribute(&[located(0, vec![process(2, "p", Some(9))])], &[held(GuardMode::Kill, &["p"])]);
    judge.observe(&found, &BTreeSet::new(), begun);
    assert_eq!(judge.over_since(&key(0, &["a"])), Some(begun));
    assert_eq!(judge.due(&found, begun + GRACE).len(), 1);
    assert_eq!(judge.due(&found, begun + GRACE).len(), 1);
    judge.acted(&key(0, &["a"]), begun + GRACE);
    assert!(judge.due(&found, begun + GRACE).is_empty());
}

proptest! {
    #[test]
    fn nobody_is_judged_before_the_grace_or_for_another(
        mode in prop_oneof![
            Just(GuardMode::Off), Just(GuardMode::Observe), Just(GuardMode::Evict), Just(GuardMode::Kill)],
        // Seconds to the tick; whether it can be read; the use of p, of q, and of a stranger.
        ticks in prop::collection::vec((0..20_u64, prop::bool::weighted(0.9), 0..9_u64, 0..9_u64, 0..90_u64), 1..60),
    ) {
        let mut trial = Trial::new(mode);
        let (mut second, mut quiet_since) = (0, None);
        for (pause, read, p, q, stranger) in ticks {
            second += pause;
            if !read {
                trial.unread(second);
                quiet_since = None;
                continue;
            }
            let due = trial.tick(second, &[(2, "p", p), (3, "q", q), (4, "x", stranger)]);
            if p + q <= 8 {
                quiet_since = None;
                prop_assert!(due.is_empty());
                continue;
            }
            let since = *quiet_since.get_or_insert(second);
            for verdict in &due {
                prop_assert!(second - since >= GRACE.as_secs(), "too early");
                prop_assert!(verdict.used > verdict.limit && ["p", "q"].contains(&verdict.pod.uid.as_str()));
                match (mode, verdict.action) {
                    (GuardMode::Observe, Action::Observe) | (GuardMode::Evict, Action::Evict) => {}
                    (GuardMode::Kill, Action::Kill(victim)) => prop_assert!([2, 3].contains(&victim.pid.0)),
                    (mode, action) => prop_assert!(false, "{action:?} under {mode:?}"),
                }
            }
            if !due.is_empty() {
                quiet_since = Some(second);
            }
        }
    }
}
