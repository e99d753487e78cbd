//! Finds devices for all requests of a claim at once, by trying them in order and going back.
use k8s_openapi::api::resource::v1::{DeviceAttribute, DeviceConstraint};

use super::{
    DeviceId, Unallocatable,
    ask::{Amount, Ask},
    pool::{Candidate, Reachable},
};

/// A device for a request.
#[derive(Clone, Copy)]
pub(super) struct Choice<'a> {
    pub(super) ask: &'a Ask<'a>,
    pub(super) candidate: &'a Candidate<'a>,
}

/// A search and how far it has come.
pub(super) struct Search<'a> {
    requests: &'a [Vec<Ask<'a>>],
    reachable: &'a Reachable<'a>,
    constraints: &'a [DeviceConstraint],
    in_use: &'a [DeviceId],
    chosen: Vec<Choice<'a>>,
}

impl<'a> Search<'a> {
    pub(super) fn new(
        requests: &'a [Vec<Ask<'a>>],
        reachable: &'a Reachable<'a>,
        constraints: &'a [DeviceConstraint],
        in_use: &'a [DeviceId],
    ) -> Self {
        Self { requests, reachable, constraints, in_use, chosen: Vec::new() }
    }

    /// The first choice of devices that satisfies everything, if there is one.
    pub(super) fn run(mut self) -> Result<Option<Vec<Choice<'a>>>, Unallocatable> {
        Ok(self.place(0)?.then_some(self.chosen))
    }

    /// Satisfies the requests from one on.
    fn place(&mut self, request: usize) -> Result<bool, Unallocatable> {
        let Some(asks) = self.requests.get(request) else {
            return Ok(true);
        };
        for ask in asks {
            let placed = match ask.amount {
                Amount::Exactly(count) => self.take(request, ask, count, 0)?,
                Amount::All => self.take_all(request, ask)?,
            };
            if placed {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes so many more devices, of those from one on, and then satisfies the other requests.
    fn take(&mut self, request: usize, ask: &'a Ask<'a>, count: usize, from: usize) -> Result<bool, Unallocatable> {
        if count == 0 {
            return self.place(request + 1);
        }
        for (at, candidate) in self.reachable.candidates.iter().enumerate().skip(from) {
            if !(self.free(ask, candidate) && ask.selects(candidate)? && self.fits(ask, candidate)?) {
                continue;
            }
            self.chosen.push(Choice { ask, candidate });
            if self.take(request, ask, count - 1, at + 1)? {
                return Ok(true);
            }
            self.chosen.pop();
        }
        Ok(false)
    }

    fn take_all(&mut self, request: usize, ask: &'a Ask<'a>) -> Result<bool, Unallocatable> {
        if let Some((driver, pool)) = self.reachable.incomplete.first() {
            return Err(Unallocatable::Incomplete { driver: driver.clone(), pool: pool.clone() });
        }
        let before = self.chosen.len();
        for candidate in &self.reachable.candidates {
            if !ask.selects(candidate)? {
                continue;
            }
            if !(self.free(ask, candidate) && self.fits(ask, candidate)?) {
                self.chosen.truncate(before);
                return Ok(false);
            }
            self.chosen.push(Choice { ask, candidate });
        }
        let placed = self.chosen.len() > before && self.place(request + 1)?;
        if !placed {
            self.chosen.truncate(before);
        }
        Ok(placed)
    }

    /// Administrators get devices that others use, but no claim gets a device twice.
    fn free(&self, ask: &Ask<'_>, candidate: &Candidate<'_>) -> bool {
        let taken = self.chosen.iter().any(|choice| choice.candidate.id == candidate.id);
        !taken && (ask.admin || !self.in_use.contains(&candidate.id))
    }

    /// Whether a device that is selected may be taken together with those that are chosen.
    fn fits(&self, ask: &Ask<'_>, candidate: &Candidate<'_>) -> Result<bool, Unallocatable> {
        let device = candidate.device;
        let unsupported = [
            ("consumesCounters", device.consumes_counters.is_some()),
            ("allowMultipleAllocations", device.allow_multiple_allocations == Some(true)),
            ("bindingConditions", device.binding_conditions.is_some()),
        ];
        if let Some((field, _)) = unsupported.into_iter().find(|(_, used)| *used) {
            return Err(Unallocatable::Unsupported { at: format!("device {}", candidate.id), field });
        }
        Ok(ask.tolerates(candidate) && self.constraints.iter().all(|c| self.constrained(c, ask, candidate)))
    }

    fn constrained(&self, constraint: &DeviceConstraint, ask: &Ask<'_>, candidate: &Candidate<'_>) -> bool {
        if !ask.named_in(constraint.requests.as_ref()) {
            return true;
        }
        let bound = self.chosen.iter().filter(|choice| choice.ask.named_in(constraint.requests.as_ref()));
        let mut bound = bound.map(|choice| choice.candidate);
        let same = constraint.match_attribute.as_deref().is_none_or(|name| {
            let mine = attribute(candidate, name);
            mine.is_some() && bound.clone().all(|other| attribute(other, name) == mine)
        });
        let distinct = constraint.distinct_attribute.as_deref().is_none_or(|name| {
            let mine = attribute(candidate, name);
            mine.is_some() && bound.all(|other| attribute(other, name) != mine)
        });
        same && distinct
    }
}

/// An attribute by its full name; drivers may leave out their own domain.
fn attribute<'a>(candidate: &Candidate<'a>, name: &str) -> Option<&'a DeviceAttribute> {
    let attributes = candidate.device.attributes.as_ref()?;
    let (domain, short) = name.split_once('/')?;
    attributes.get(name).or_else(|| (domain == candidate.id.driver).then(|| attributes.get(short)).flatten())
}
