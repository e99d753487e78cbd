//! Why a device that matches is not allocated.
use std::{collections::BTreeMap, fmt};

use super::DeviceId;

/// What keeps a request from a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is another kind of device than is asked for.
    #[error("does not match")]
    NotSelected,
    /// The same claim has it already.
    #[error("is taken by the claim itself")]
    Taken,
    /// Another claim has it, or a share of what is now a whole.
    #[error("is in use")]
    InUse,
    /// It lacks a capacity that is asked for, or has not as much of it, or not left.
    #[error("lacks capacity")]
    Capacity,
    /// Others draw on the counters that it needs.
    #[error("lacks counters")]
    Counters,
    /// It consumes counters, and the feature is off.
    #[error("consumes counters, but the DRAPartitionableDevices feature is disabled")]
    Disabled,
    /// It has a taint that the request does not tolerate.
    #[error("is tainted")]
    Tainted,
    /// A constraint of the claim.
    #[error("violates a constraint")]
    Constraint,
}

/// The devices that match some request, and the first reason why each was not taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusals(pub BTreeMap<DeviceId, Refusal>);

impl Refusals {
    pub(super) fn note(&mut self, device: &DeviceId, refusal: Refusal) {
        if !matches!(refusal, Refusal::NotSelected | Refusal::Taken) {
            self.0.entry(device.clone()).or_insert(refusal);
        }
    }
}

impl fmt::Display for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (id, refusal)) in self.0.iter().enumerate() {
            write!(f, "{} {} {refusal}", if at == 0 { ":" } else { "," }, id.device)?;
        }
        Ok(())
    }
}
