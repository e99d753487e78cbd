//! What is provoked, in which order, and what can't be.
use super::{
    Error, Plan, claims, gpus, install::Installation, left, machine, offering, others, shares, stage::Stage, switched,
};

/// Symptoms that no cause can be made for here, and why.
pub(super) const OUT: [(&str, &str); 1] = [(
    "ResourceClaim … is not the one that the pod was given",
    "a kubelet that is told of the claim reads it anew, and refuses another one itself; suite claims has it",
)];

/// A cause, and the symptoms that it makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Try {
    Written,
    Pending,
    Refused,
    Held,
    Terminating,
    Policy,
    NoGpus,
    Gone,
    Broken,
    Ill,
    Unavailable,
    Passed,
    NotSet,
    Conflict,
    NotRestored,
    IsWhole,
    NoRoom,
    Memory,
    Blind,
    Quarantined,
    Deleting,
    Slice,
    Contested,
    Unknown,
    Stale,
    Reserved,
    Released,
    Fixed,
    NotMoved,
    Machine,
    Switched,
}

impl Try {
    pub(super) const ALL: [Self; 31] = [
        Self::Written,
        Self::Pending,
        Self::Refused,
        Self::Held,
        Self::Terminating,
        Self::Policy,
        Self::NoGpus,
        Self::Gone,
        Self::Broken,
        Self::Ill,
        Self::Unavailable,
        Self::Passed,
        Self::NotSet,
        Self::Conflict,
        Self::NotRestored,
        Self::IsWhole,
        Self::NoRoom,
        Self::Memory,
        Self::Blind,
        Self::Quarantined,
        Self::Deleting,
        Self::Slice,
        Self::Contested,
        Self::Unknown,
        Self::Stale,
        Self::Reserved,
        Self::Released,
        Self::Fixed,
        Self::NotMoved,
        Self::Machine,
        Self::Switched,
    ];

    /// As `--only` has it.
    pub(super) fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// Whether it is asked for.
    pub(super) fn is_of(self, plan: &Plan) -> bool {
        let is_named = plan.only.is_empty() || plan.only.iter().any(|begins| self.name().starts_with(begins.as_str()));
        is_named && matches!(self, Self::Machine | Self::Switched) == plan.machines.is_some()
    }

    /// Reasons of Events, the kubelet's texts as the page has them, and what else the page speaks of.
    pub(super) fn shows(self) -> &'static [&'static str] {
        match self {
            Self::Written => &["refused when written"],
            Self::Pending => &["Pending: cannot allocate all claims"],
            Self::Refused => &["ContainerRefused"],
            Self::Held => &["device … is still held by …, whose pod has not ended on this node"],
            Self::Terminating => &["Terminating and stays"],
            Self::Policy => &["PolicyRefused", "PolicyInForce", "PolicyDoesNotFit"],
            Self::NoGpus => &["NoGPUs"],
            Self::Gone => &["GPUGone", "ClaimGPUGone"],
            Self::Broken => &["GPUUnhealthy"],
            Self::Ill => &["GPUUnhealthy", "GPUHealthy", "device … is on a GPU that can't be used"],
            Self::Unavailable => {
                &["GPUsUnavailable", "GPUsAvailable", "ClaimGPUUnseen", "the node's GPUs can't be read"]
            }
            Self::Passed => &["VfioGPULost"],
            Self::NotSet => &["TimeSliceNotSet"],
            Self::Conflict => &["this claim asks for time slice …"],
            Self::NotRestored => &["TimeSliceNotRestored", "TimeSliceRestored"],
            Self::IsWhole => &["ShareIsWhole"],
            Self::NoRoom => &["device … has no room"],
            Self::Memory => &["ShareMemoryExceeded", "ShareMemoryKilled", "ShareMemoryEvicted"],
            Self::Blind => &["GuardBlind", "GuardSees"],
            Self::Quarantined => &[
                "RecordQuarantined",
                "device … may still be in use by the claim with UID …, whose record on this node can't be read",
            ],
            Self::Deleting => &["ClaimStuckDeleting"],
            Self::Slice => &["StaleSliceDeleted"],
            Self::Contested => {
                &["GPUContested", "GPUUsedTwice", "GPUUncontested", "device … is in use: … got the GPU from …"]
            }
            Self::Unknown => &["SharesUnknown"],
            Self::Stale => &["StaleClaim", "StaleClaimRemoved"],
            Self::Reserved => &["ClaimReservedForGonePods"],
            Self::Released => &["ClaimReleased"],
            Self::Fixed => &["SharesFixed", "SharesOffered"],
            Self::NotMoved => &["GPUNotMoved"],
            Self::Machine | Self::Switched => &["passthrough"],
        }
    }

    /// Why it can't be tried with what the plan has.
    pub(super) fn lacks(self, plan: &Plan) -> Option<&'static str> {
        let (has, why) = match self {
            Self::Stale => (plan.kubelet.is_some(), "nothing says how to stop the kubelet"),
            Self::Reserved | Self::Released => {
                (plan.controllers.is_some(), "nothing says how to stop kube-controller-manager")
            }
            Self::Fixed => (plan.gates.is_some(), "nothing says how to turn feature gates off"),
            _ => (true, ""),
        };
        (!has).then_some(why)
    }

    /// Makes the cause, waits for what is told, and mends it.
    pub(super) async fn go(self, stage: &Stage<'_>, installation: &Installation<'_>) -> Result<(), Error> {
        let plan = stage.plan;
        let missing = || Error::Otherwise("nothing says how".to_owned());
        match self {
            Self::Written => claims::written(stage).await,
            Self::Pending => claims::pending(stage).await,
            Self::Refused => claims::refused(stage).await,
            Self::Held => claims::held(stage).await,
            Self::Terminating => claims::terminating(stage, installation).await,
            Self::Policy => offering::policy(stage).await,
            Self::NoGpus => gpus::none(stage).await,
            Self::Gone => gpus::gone(stage).await,
            Self::Broken => gpus::broken(stage).await,
            Self::Ill => gpus::ill(stage).await,
            Self::Unavailable => gpus::unavailable(stage).await,
            Self::Passed => gpus::passed(stage).await,
            Self::NotSet => shares::not_set(stage).await,
            Self::Conflict => shares::conflict(stage).await,
            Self::NotRestored => shares::not_restored(stage).await,
            Self::IsWhole => shares::is_whole(stage).await,
            Self::NoRoom => shares::no_room(stage).await,
            Self::Memory => shares::memory(stage).await,
            Self::Blind => shares::blind(stage).await,
            Self::Quarantined => left::quarantined(stage).await,
            Self::Deleting => left::deleting(stage).await,
            Self::Slice => left::slice(stage).await,
            Self::Contested => others::contested(stage, installation).await,
            Self::Unknown => Box::pin(offering::unknown(stage)).await,
            Self::Stale => {
                let (stop, start) = plan.kubelet.as_ref().ok_or_else(missing)?;
                left::stale(stage, installation, (stop, start)).await
            }
            Self::Reserved => {
                let (stop, start) = plan.controllers.as_ref().ok_or_else(missing)?;
                left::reserved(stage, (stop, start)).await
            }
            Self::Released => {
                let (stop, start) = plan.controllers.as_ref().ok_or_else(missing)?;
                left::released(stage, installation, (stop, start)).await
            }
            Self::Fixed => {
                let (off, on) = plan.gates.as_ref().ok_or_else(missing)?;
                offering::fixed(stage, off, on).await
            }
            Self::Machine => {
                let (handler, _) = plan.machines.as_ref().ok_or_else(missing)?;
                machine::with_class(stage, handler, Box::pin(machine::machine(stage, installation))).await
            }
            Self::NotMoved => Box::pin(switched::not_moved(stage, installation)).await,
            Self::Switched => {
                let (handler, _) = plan.machines.as_ref().ok_or_else(missing)?;
                machine::with_class(stage, handler, Box::pin(machine::switched(stage, installation))).await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::symptoms::page;

    #[test]
    fn every_event_and_every_failed_prepare_of_the_page_is_tried_or_named_with_the_reason() {
        let tried = Try::ALL.into_iter().flat_map(Try::shows).copied();
        let known: BTreeSet<&str> = tried.chain(OUT.iter().map(|(symptom, _)| *symptom)).collect();
        let told: Vec<&str> = page::events().into_iter().chain(page::of_prepare()).collect();
        let missing: Vec<&&str> = told.iter().filter(|symptom| !known.contains(**symptom)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
