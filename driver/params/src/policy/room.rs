//! Finds shares that a policy counts and a GPU has no room for, if each is of the default size.
use aliquot_model::{Gpu, Memory};

use super::{Place, Policy, resolve::prefix};

/// A policy can be had on a GPU, but doesn't give what it says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}rules[{rule}].shares don't all fit on GPU {gpu} ({product}): {reason}", prefix(*place))]
pub struct GpuWarning {
    /// Where in the file.
    pub place: Option<Place>,
    /// Which rule.
    pub rule: usize,
    /// The GPU's UUID.
    pub gpu: String,
    /// The GPU's name.
    pub product: String,
    /// What doesn't fit.
    pub reason: String,
}

impl Policy {
    /// Of a GPU that it offers in shares whose default size doesn't fit as often as it says.
    ///
    /// No fault, since claims can ask for less memory than the default.
    pub fn warning_for(&self, gpu: &Gpu) -> Option<GpuWarning> {
        let offer = self.for_gpu(gpu).ok()?;
        let (rule, shares) = (offer.rule?, offer.shares?);
        let (count, default, memory) = (shares.count, shares.default, shares.memory);
        let all = Memory::from_bytes(default.bytes().saturating_mul(count.into()));
        if all <= memory {
            return None;
        }
        let fit = memory.bytes().checked_div(default.bytes())?;
        let fixed = memory.part(count);
        let reason = format!(
            "{count} shares of {default} are {all}, but it has {memory}: {fit} fit. As a fixed number of shares, each \
             has {fixed}"
        );
        let place = self.rules.get(rule)?.shares.memory.default.as_ref().map(Place::of);
        Some(GpuWarning { place, rule, gpu: gpu.uuid.to_string(), product: gpu.product_name.clone(), reason })
    }
}
