//! Finds devices for all requests of a claim at once, by trying them in order and going back.
use k8s_openapi::api::resource::v1::DeviceConstraint;

use super::{
    Unallocatable,
    ask::{Amount, Ask},
    capacity::Amounts,
    constraint,
    pool::Candidate,
    refusal::{Refusal, Refusals},
    room::Room,
};

/// A device for a request.
#[derive(Clone)]
pub(super) struct Choice<'a> {
    pub(super) ask: &'a Ask<'a>,
    pub(super) candidate: &'a Candidate<'a>,
    /// What a share takes of the device's capacities; none for a whole device.
    pub(super) share: Option<Amounts>,
}

/// A search and how far it has come.
pub(super) struct Search<'a> {
    requests: &'a [Vec<Ask<'a>>],
    constraints: &'a [DeviceConstraint],
    room: Room<'a>,
    chosen: Vec<Choice<'a>>,
    refusals: Refusals,
}

impl<'a> Search<'a> {
    pub(super) fn new(requests: &'a [Vec<Ask<'a>>], constraints: &'a [DeviceConstraint], room: Room<'a>) -> Self {
        Self { requests, constraints, room, chosen: Vec::new(), refusals: Refusals::default() }
    }

    /// The first choice of devices that satisfies everything.
    pub(super) fn run(mut self) -> Result<Vec<Choice<'a>>, Unallocatable> {
        if self.place(0)? {
            return Ok(self.chosen);
        }
        self.room.reachable.all_valid()?;
        Err(Unallocatable::NoDevices(self.refusals))
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
        for (at, candidate) in self.room.reachable.candidates.iter().enumerate().skip(from) {
            if !self.choose(ask, candidate)? {
                continue;
            }
            if self.take(request, ask, count - 1, at + 1)? {
                return Ok(true);
            }
            self.chosen.pop();
        }
        Ok(false)
    }

    fn take_all(&mut self, request: usize, ask: &'a Ask<'a>) -> Result<bool, Unallocatable> {
        let reachable = self.room.reachable;
        if let Some((driver, pool)) = reachable.incomplete.first() {
            return Err(Unallocatable::Incomplete { driver: driver.clone(), pool: pool.clone() });
        }
        reachable.all_valid()?;
        let before = self.chosen.len();
        for candidate in &reachable.candidates {
            // A device that is full, or cannot give as much, is none of "all".
            if !ask.selects(candidate)? || self.room.capacity(ask, candidate, &[])?.is_none() {
                continue;
            }
            if !self.choose(ask, candidate)? {
                self.chosen.truncate(before);
                return Ok(false);
            }
        }
        let placed = self.chosen.len() > before && self.place(request + 1)?;
        if !placed {
            self.chosen.truncate(before);
        }
        Ok(placed)
    }

    /// Takes a device unless something speaks against it, which is remembered.
    fn choose(&mut self, ask: &'a Ask<'a>, candidate: &'a Candidate<'a>) -> Result<bool, Unallocatable> {
        match self.judge(ask, candidate)? {
            Ok(share) => self.chosen.push(Choice { ask, candidate, share }),
            Err(refusal) => {
                self.refusals.note(&candidate.id, refusal);
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn judge(
        &self,
        ask: &Ask<'_>,
        candidate: &Candidate<'_>,
    ) -> Result<Result<Option<Amounts>, Refusal>, Unallocatable> {
        if let Some(held) = self.room.held(ask, candidate, &self.chosen) {
            // The selectors of devices that are not free do not matter, and must not fail.
            let selected = matches!(ask.selects(candidate), Ok(true));
            return Ok(Err(if selected { held } else { Refusal::NotSelected }));
        }
        if !ask.selects(candidate)? {
            return Ok(Err(Refusal::NotSelected));
        }
        if candidate.device.binding_conditions.is_some() {
            let at = format!("device {}", candidate.id);
            return Err(Unallocatable::Unsupported { at, field: "bindingConditions" });
        }
        let Some(taken) = self.room.capacity(ask, candidate, &self.chosen)? else {
            return Ok(Err(Refusal::Capacity));
        };
        if let Some(refusal) = self.room.counters(candidate, &self.chosen) {
            return Ok(Err(refusal));
        }
        if !ask.tolerates(candidate) {
            return Ok(Err(Refusal::Tainted));
        }
        if !self.constraints.iter().all(|one| constraint::allows(one, ask, candidate, &self.chosen)) {
            return Ok(Err(Refusal::Constraint));
        }
        Ok(Ok(self.room.multiple(candidate).then_some(taken)))
    }
}
