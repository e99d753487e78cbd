//! Who may hold a Lease, judged as client-go does: by how long this replica itself has seen no change. Pure.
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use tokio::time::Instant;

/// A Lease as this replica saw it.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) lease: Lease,
    /// Since when it has been like this. Other replicas' clocks don't count: none of their times is looked at.
    since: Instant,
}

/// What to do about a Lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// There is none: make it.
    Create,
    /// It is free, or its holder hasn't renewed it for its duration: take it.
    Take,
    /// It is this replica's: renew it.
    Renew,
    /// Another one holds it.
    Wait,
}

impl Seen {
    /// Takes what the API server gave, at a time when it was certainly like this.
    pub(super) fn new(before: Option<&Self>, lease: Lease, now: Instant) -> Self {
        let version = |lease: &Lease| lease.metadata.resource_version.clone();
        let same = before.filter(|seen| version(&seen.lease) == version(&lease));
        Self { since: same.map_or(now, |seen| seen.since), lease }
    }

    pub(super) fn holder(&self) -> Option<&str> {
        let holder = self.lease.spec.as_ref()?.holder_identity.as_deref()?;
        Some(holder).filter(|holder| !holder.is_empty())
    }

    /// As its holder promised; none is as good as over.
    fn duration(&self) -> Duration {
        let seconds = self.lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds).unwrap_or_default();
        Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
    }
}

/// Until when a replica may act that began at this time to take or renew a Lease of this duration.
pub(super) fn held_until(begun: Instant, duration: Duration) -> Instant {
    begun + duration * 2 / 3
}

/// What `me` does about a Lease.
///
/// A holder of the same name is an earlier process of the same pod, and over.
pub(super) fn decide(seen: Option<&Seen>, me: &str, now: Instant) -> Step {
    let Some(seen) = seen else { return Step::Create };
    match seen.holder() {
        Some(holder) if holder == me => Step::Renew,
        Some(_) if now < seen.since + seen.duration() => Step::Wait,
        Some(_) | None => Step::Take,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn lease(holder: &str, version: &str) -> Lease {
        serde_json::from_value(json!({"metadata": {"resourceVersion": version},
            "spec": {"holderIdentity": holder, "leaseDurationSeconds": 60, "renewTime": "1999-01-01T00:00:00.000000Z"}}))
        .unwrap()
    }

    #[test]
    fn one_that_is_missing_is_made_and_one_that_is_free_is_taken() {
        let now = Instant::now();
        assert_eq!(decide(None, "a", now), Step::Create);
        assert_eq!(decide(Some(&Seen::new(None, lease("", "1"), now)), "a", now), Step::Take);
        let none = Seen::new(None, Lease::default(), now);
        assert_eq!(decide(Some(&none), "a", now), Step::Take);
    }

    #[test]
    fn ones_own_is_renewed_whatever_its_age() {
        let now = Instant::now();
        let seen = Seen::new(None, lease("a", "1"), now);
        assert_eq!(decide(Some(&seen), "a", now + Duration::from_hours(1)), Step::Renew);
    }

    #[test]
    fn anothers_is_taken_only_after_it_was_seen_unchanged_for_its_duration() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        // Its renewTime is long ago by this machine's clock, which says nothing.
        let first = Seen::new(None, lease("b", "1"), start);
        assert_eq!(decide(Some(&first), "a", at(59)), Step::Wait);
        let again = Seen::new(Some(&first), lease("b", "1"), at(40));
        assert_eq!(decide(Some(&again), "a", at(60)), Step::Take);
        let renewed = Seen::new(Some(&again), lease("b", "2"), at(59));
        assert_eq!(decide(Some(&renewed), "a", at(118)), Step::Wait);
        assert_eq!(decide(Some(&renewed), "a", at(119)), Step::Take);
    }

    /// One replica's turn: which one, how long after the turn before, and for how long its requests are under way.
    #[derive(Debug, Clone)]
    struct Turn {
        me: usize,
        after: u64,
        reading: u64,
        writing: u64,
        /// Whether the answer to its write gets lost.
        is_lost: bool,
    }

    fn turns() -> impl Strategy<Value = Vec<Turn>> {
        let turn = (0..3_usize, 0..70_u64, 0..20_u64, 0..20_u64, proptest::bool::weighted(0.1));
        let turn =
            turn.prop_map(|(me, after, reading, writing, is_lost)| Turn { me, after, reading, writing, is_lost });
        proptest::collection::vec(turn, 1..80)
    }

    proptest! {
        #[test]
        fn no_two_replicas_may_act_at_a_time(turns in turns()) {
            let mut now = Instant::now();
            let mut stored: Option<Lease> = None;
            let mut version = 0;
            let (mut seen, mut until): ([Option<Seen>; 3], [Option<Instant>; 3]) = Default::default();
            for Turn { me, after, reading, writing, is_lost } in turns {
                now += Duration::from_secs(after);
                let (begun, name) = (now, ["a", "b", "c"][me]);
                now += Duration::from_secs(reading);
                let before = seen[me].take();
                seen[me] = stored.clone().map(|lease| Seen::new(before.as_ref(), lease, now));
                if decide(seen[me].as_ref(), name, now) == Step::Wait {
                    until[me] = None;
                    continue;
                }
                now += Duration::from_secs(writing);
                version += 1;
                stored = Some(lease(name, &version.to_string()));
                if !is_lost {
                    until[me] = Some(held_until(begun, Duration::from_mins(1)));
                }
                for other in (0..3).filter(|other| *other != me) {
                    prop_assert!(until[other].is_none_or(|until| until <= now), "{name} began too early");
                }
            }
        }
    }
}
