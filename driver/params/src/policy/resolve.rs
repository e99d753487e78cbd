//! The policy for one GPU: the first rule that matches, with everything filled in.
use aliquot_model::{Gpu, Memory, VfioGpu};

use super::{
    DEFAULT_SHARES, Form, Guard, GuardMode, Place, Policy, Shares, VFIO_PCI, VfioBinding,
    file::{Fallback, Match, Rule},
    shadow::glob,
};
use crate::duration;

/// What a policy says of one GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Which rule said it, from 0; none if none matched.
    pub rule: Option<usize>,
    /// Whether the whole GPU is offered.
    pub whole: bool,
    /// How it is offered in shares, if it is.
    pub shares: Option<Shares>,
    /// Whether virtual machines may have it, once a vfio driver of the kernel does.
    pub vfio: bool,
    /// Where only one of the first two is possible, which.
    pub fallback: Form,
}

/// A policy can't be had on a GPU that it is for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}rules[{rule}].shares can't be had on GPU {gpu} ({product}): {reason}", prefix(*place))]
pub struct GpuFault {
    /// Where in the file, if it names what is wrong.
    pub place: Option<Place>,
    /// Which rule.
    pub rule: usize,
    /// The GPU's UUID.
    pub gpu: String,
    /// The GPU's name.
    pub product: String,
    /// What is wrong.
    pub reason: String,
}

impl Policy {
    /// What it says of a GPU.
    pub fn for_gpu(&self, gpu: &Gpu) -> Result<Offer, GpuFault> {
        let Some((at, rule)) = self.rules.iter().enumerate().find(|(_, rule)| matches(&rule.r#match, gpu)) else {
            return Ok(without_rule(gpu));
        };
        let shares = shares(rule, gpu).map_err(|(place, reason)| GpuFault {
            place,
            rule: at,
            gpu: gpu.uuid.to_string(),
            product: gpu.product_name.clone(),
            reason,
        })?;
        let offers = |form| rule.offer.value.contains(&form);
        let fallback = match rule.fallback {
            Fallback::Whole => Form::Whole,
            Fallback::Shares => Form::Shares,
        };
        Ok(Offer {
            rule: Some(at),
            whole: offers(Form::Whole),
            shares: offers(Form::Shares).then_some(shares),
            vfio: !rule.says_forms() || offers(Form::Vfio),
            fallback,
        })
    }

    /// Whether any rule has pods evicted.
    pub fn evicts(&self) -> bool {
        self.rules.iter().any(|rule| rule.shares.guard.mode == GuardMode::Evict)
    }

    /// Whether virtual machines may have a GPU that a vfio driver of the kernel has. A rule may name its place and product,
    /// as pci.ids calls it; its UUID is known to NVIDIA's driver alone.
    pub fn passes(&self, gpu: &VfioGpu) -> bool {
        let is_meant = |wanted: &Match| {
            wanted.uuid.is_none()
                && wanted.pci_address.is_none_or(|pci| pci == gpu.pci)
                && is_named(wanted, &gpu.product_name)
        };
        let rule = self.rules.iter().find(|rule| is_meant(&rule.r#match));
        rule.is_none_or(|rule| !rule.says_forms() || rule.offer.value.contains(&Form::Vfio))
    }

    /// The kernel driver to which a GPU that NVIDIA's has may be given for a virtual machine, if it may.
    pub fn takes(&self, gpu: &Gpu) -> Option<&str> {
        let rule = self.rules.iter().find(|rule| matches(&rule.r#match, gpu))?;
        let is_meant =
            rule.vfio.binding == VfioBinding::Dynamic && (!rule.says_forms() || rule.offer.value.contains(&Form::Vfio));
        is_meant.then(|| rule.vfio.driver.as_ref().map_or(VFIO_PCI, |driver| &driver.value))
    }

    /// How many rules there are.
    pub fn rules(&self) -> usize {
        self.rules.len()
    }
}

fn matches(wanted: &Match, gpu: &Gpu) -> bool {
    wanted.uuid.as_ref().is_none_or(|uuid| *uuid == gpu.uuid)
        && wanted.pci_address.is_none_or(|pci| pci == gpu.pci)
        && is_named(wanted, &gpu.product_name)
}

fn is_named(wanted: &Match, product: &str) -> bool {
    wanted.product_name.as_ref().is_none_or(|name| glob(&name.value, product))
}

fn without_rule(gpu: &Gpu) -> Offer {
    let memory = gpu.memory.floor_to_mebibytes();
    let shares = Shares {
        count: DEFAULT_SHARES,
        memory,
        default: memory.part(DEFAULT_SHARES),
        minimum: Memory::MEBIBYTE.min(memory),
        order: super::Order::default(),
        time_slice: crate::TimeSlice::default(),
        guard: Guard::default(),
    };
    Offer { rule: None, whole: true, shares: Some(shares), vfio: true, fallback: Form::Whole }
}

/// A place as the beginning of a text.
pub(super) fn prefix(place: Option<Place>) -> String {
    place.map_or_else(String::new, |place| format!("{place}: "))
}

/// Or what is wrong, and where.
fn shares(rule: &Rule, gpu: &Gpu) -> Result<Shares, (Option<Place>, String)> {
    let wanted = &rule.shares;
    let Some(plain) = without_rule(gpu).shares else { return Err((None, "it has none".to_owned())) };
    let of_minimum = wanted.memory.minimum.as_ref().map(Place::of);
    let of_default = wanted.memory.default.as_ref().map(Place::of);
    let memory = plain.memory;
    let count = wanted.count.as_ref().map_or(plain.count, |count| count.value);
    let minimum = wanted.memory.minimum.as_ref().map_or(plain.minimum, |amount| amount.value.0);
    let default = wanted.memory.default.as_ref().map_or(memory.part(count).max(minimum), |amount| amount.value.0);
    for (name, amount, place) in [("minimum", minimum, of_minimum), ("default", default, of_default)] {
        if amount > memory {
            return Err((place, format!("memory.{name} is {amount}, but it has {memory}")));
        }
    }
    if default < minimum {
        let reason = format!("memory.default is {default}, less than memory.minimum, {minimum}");
        return Err((of_default, reason));
    }
    let least = Memory::from_bytes(minimum.bytes().saturating_mul(count.into()));
    if least > memory {
        let reason = format!("{count} shares of at least {minimum} are {least}, but it has {memory}");
        return Err((of_minimum.or(wanted.count.as_ref().map(Place::of)), reason));
    }
    let grace = wanted.guard.grace.as_ref().and_then(|text| duration(&text.value).ok());
    Ok(Shares {
        count,
        memory,
        default,
        minimum,
        order: wanted.order,
        time_slice: wanted.time_slice,
        guard: Guard { mode: wanted.guard.mode, grace: grace.unwrap_or(plain.guard.grace) },
    })
}
