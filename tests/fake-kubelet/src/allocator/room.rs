//! Whether a device has room for one more use, beside what claims hold and what is chosen so far.
use super::{
    ask::Ask,
    capacity::{self, Amounts},
    counters,
    features::Features,
    in_use::InUse,
    pool::{Candidate, Reachable},
    quantity::NotAQuantity,
    refusal::Refusal,
    search::Choice,
};

/// What there is room in.
#[derive(Clone, Copy)]
pub(super) struct Room<'a> {
    pub(super) reachable: &'a Reachable<'a>,
    pub(super) in_use: &'a InUse,
    pub(super) features: Features,
}

impl Room<'_> {
    /// Whether a device can be allocated several times. With the feature off the field means nothing.
    pub(super) fn multiple(&self, candidate: &Candidate<'_>) -> bool {
        self.features.consumable_capacity && candidate.device.allow_multiple_allocations == Some(true)
    }

    /// Whether somebody has the device and keeps others from it. Administrators get what other claims have.
    pub(super) fn held(&self, ask: &Ask<'_>, candidate: &Candidate<'_>, chosen: &[Choice<'_>]) -> Option<Refusal> {
        let multiple = self.multiple(candidate);
        if !multiple && chosen.iter().any(|choice| choice.candidate.id == candidate.id) {
            return Some(Refusal::Taken);
        }
        let by_others = self.in_use.whole(&candidate.id) || (!multiple && self.in_use.any(&candidate.id));
        (!ask.admin && by_others).then_some(Refusal::InUse)
    }

    /// What a request would take of the device's capacities, if it has as much. An administrator needs them as well.
    pub(super) fn capacity(
        &self,
        ask: &Ask<'_>,
        candidate: &Candidate<'_>,
        chosen: &[Choice<'_>],
    ) -> Result<Option<Amounts>, NotAQuantity> {
        if !self.features.consumable_capacity {
            return Ok(Some(Amounts::new()));
        }
        let Some(taken) = capacity::taken(ask.capacity, candidate.device)? else {
            return Ok(None);
        };
        let shares = chosen.iter().filter(|choice| choice.candidate.id == candidate.id);
        let shares = shares.filter_map(|choice| choice.share.as_ref());
        let shares = shares.map(capacity::used).collect::<Result<Vec<_>, _>>()?;
        let used: Vec<_> = self.in_use.shared(&candidate.id).into_iter().chain(&shares).collect();
        Ok(capacity::fits(&taken, candidate.device, &used)?.then_some(taken))
    }

    /// Whether the pool's counters suffice. A device that has shares draws on them already. An administrator needs them
    /// as well, as in Kubernetes 1.36: only once it is allocated does its device not count any more.
    pub(super) fn counters(&self, candidate: &Candidate<'_>, chosen: &[Choice<'_>]) -> Option<Refusal> {
        candidate.device.consumes_counters.as_ref()?;
        if !self.features.partitionable_devices {
            return Some(Refusal::Disabled);
        }
        let shared = |other: &Candidate<'_>| self.multiple(other) && self.in_use.shared(&other.id).is_some();
        let chosen: Vec<_> = chosen.iter().map(|choice| choice.candidate).collect();
        if shared(candidate) {
            return None;
        }
        // Shares that are chosen for one device draw once.
        let mut drawing = vec![candidate];
        for other in chosen.into_iter().filter(|other| other.pool() == candidate.pool() && !shared(other)) {
            if drawing.iter().all(|one| one.id != other.id) {
                drawing.push(other);
            }
        }
        let drawn: Vec<_> = drawing.iter().map(|one| &one.draws).collect();
        let left = self.reachable.counters.get(&candidate.pool());
        left.is_some_and(|left| !counters::suffice(left, &drawn)).then_some(Refusal::Counters)
    }
}
