//! Whoever vanishes counts for a while: plugins, drivers and the kubelet restart, and slices needn't follow each time. Pure.
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use aliquot_model::GpuUuid;
use tokio::time::Instant;

use super::judge::{Elsewhere, Other};

/// A plugin that is restarted is registered again within this, as a rule.
pub(super) const LINGER: Duration = Duration::from_secs(15);

/// Who was there lately.
#[derive(Debug, Default)]
pub(super) struct Linger {
    on_gpus: BTreeMap<(GpuUuid, Other), Option<Instant>>,
    unplaced: BTreeMap<Other, Option<Instant>>,
}

impl Linger {
    /// Who counts now, if this is who is there; and when that changes by itself. What pods hold is taken as it is.
    pub(super) fn settle(&mut self, mut now_there: Elsewhere, now: Instant) -> (Elsewhere, Option<Instant>) {
        let there: BTreeSet<(GpuUuid, Other)> = now_there
            .gpus
            .iter()
            .flat_map(|(gpu, others)| others.by.iter().map(|other| (gpu.clone(), other.clone())))
            .collect();
        let first = keep(&mut self.on_gpus, there, now);
        let second = keep(&mut self.unplaced, std::mem::take(&mut now_there.unplaced), now);
        for (gpu, other) in self.on_gpus.keys() {
            now_there.gpus.entry(gpu.clone()).or_default().by.insert(other.clone());
        }
        now_there.unplaced = self.unplaced.keys().cloned().collect();
        (now_there, first.into_iter().chain(second).min())
    }
}

/// Forgets what has been away for long enough; the next time at which that happens.
fn keep<K: Ord>(known: &mut BTreeMap<K, Option<Instant>>, there: BTreeSet<K>, now: Instant) -> Option<Instant> {
    known.retain(|key, until| {
        if !there.contains(key) {
            return *until.get_or_insert(now + LINGER) > now;
        }
        true
    });
    known.extend(there.into_iter().map(|key| (key, None)));
    known.values().flatten().min().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::others::judge::{
        Others,
        tests::{plugin, pod},
    };

    fn elsewhere(resource: &str) -> Elsewhere {
        let others =
            Others { by: BTreeSet::from([plugin(resource)]), held: BTreeSet::from([(plugin(resource), pod("p"))]) };
        Elsewhere {
            gpus: BTreeMap::from([("GPU-1".parse().unwrap(), others)]),
            unplaced: BTreeSet::from([plugin(resource)]),
        }
    }

    #[test]
    fn who_vanishes_counts_for_a_while_and_holds_nothing_meanwhile() {
        let (mut linger, start) = (Linger::default(), Instant::now());
        assert_eq!(linger.settle(elsewhere("a"), start), (elsewhere("a"), None));
        let (during, again) = linger.settle(Elsewhere::default(), start);
        assert_eq!((during.gpus.len(), during.unplaced.len(), again), (1, 1, Some(start + LINGER)));
        assert!(during.gpus.values().all(|others| others.held.is_empty() && !others.by.is_empty()));
        let just_before = start + LINGER.saturating_sub(Duration::from_millis(1));
        assert_eq!(linger.settle(Elsewhere::default(), just_before), (during, again));
        assert_eq!(linger.settle(Elsewhere::default(), start + LINGER), (Elsewhere::default(), None));
    }

    #[test]
    fn who_comes_back_stays() {
        let (mut linger, start) = (Linger::default(), Instant::now());
        linger.settle(elsewhere("a"), start);
        linger.settle(Elsewhere::default(), start);
        assert_eq!(linger.settle(elsewhere("a"), start + LINGER / 2), (elsewhere("a"), None));
        let (during, again) = linger.settle(Elsewhere::default(), start + LINGER);
        assert_eq!((during.gpus.len(), again), (1, Some(start + LINGER * 2)), "its time begins anew");
    }

    #[test]
    fn one_who_comes_takes_nobody_elses_place() {
        let (mut linger, start) = (Linger::default(), Instant::now());
        linger.settle(elsewhere("a"), start);
        let (both, _) = linger.settle(elsewhere("b"), start);
        assert_eq!(both.gpus.values().next().unwrap().by.len(), 2);
        let (one, again) = linger.settle(elsewhere("b"), start + LINGER);
        assert_eq!((one, again), (elsewhere("b"), None));
    }
}
