//! The words in which the sweep thinks.
use std::{collections::BTreeSet, sync::Arc, time::Instant};

use aliquot_model::DeviceName;
use dra_plugin::{ClaimRef, ClaimUid};

use crate::claim::Record;

/// Why something on the node stands for no live claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Reason {
    /// The API server has no such claim.
    Gone,
    /// The API server has another claim of this name.
    OtherUid,
    /// The scheduler took the devices back.
    NotAllocated,
    /// The claim is allocated, and nothing of it is on this node.
    Elsewhere,
    /// The claim is allocated on this node, and to none of the devices that are held for it.
    OtherDevices,
    /// A CDI spec has no record.
    NoRecord,
}

impl Reason {
    /// All of them, for metrics.
    pub(crate) const ALL: [Self; 6] =
        [Self::Gone, Self::OtherUid, Self::NotAllocated, Self::Elsewhere, Self::OtherDevices, Self::NoRecord];

    /// For metrics and scripts.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::OtherUid => "other_uid",
            Self::NotAllocated => "not_allocated",
            Self::Elsewhere => "elsewhere",
            Self::OtherDevices => "other_devices",
            Self::NoRecord => "no_record",
        }
    }

    /// For people.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Gone => "the claim doesn't exist any more",
            Self::OtherUid => "a claim of this name exists, but it is another one",
            Self::NotAllocated => "the claim isn't allocated any more",
            Self::Elsewhere => "the claim is allocated, but not on this node",
            Self::OtherDevices => "the claim is allocated to other devices of this node",
            Self::NoRecord => "no record stands behind the CDI spec",
        }
    }

    /// Whether the claim itself is still there to be told about it.
    pub(crate) fn has_claim(self) -> bool {
        matches!(self, Self::NotAllocated | Self::Elsewhere | Self::OtherDevices)
    }
}

/// One thing on the node that stands for a claim.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    /// The claim's UID.
    pub(crate) uid: ClaimUid,
    /// What it is.
    pub(crate) kind: Kind,
    /// When the kubelet last had this process prepare the claim.
    pub(crate) asked: Option<Instant>,
    /// What is held for the claim, as far as that is known.
    pub(crate) devices: BTreeSet<DeviceName>,
}

/// What stands for a claim.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// Its record.
    Record(Arc<Record>),
    /// A record that can't be used.
    Quarantined {
        /// The claim that the file names.
        claim: Option<ClaimRef>,
        /// Whether the name can be relied on.
        is_sure: bool,
    },
    /// Its CDI spec alone.
    Spec,
}

impl Item {
    /// The claim by which the API server can be asked.
    pub(crate) fn claim(&self) -> Option<&ClaimRef> {
        match &self.kind {
            Kind::Record(record) => Some(&record.claim),
            Kind::Quarantined { claim, .. } => claim.as_ref(),
            Kind::Spec => None,
        }
    }

    /// The record, where there is a good one.
    pub(crate) fn record(&self) -> Option<&Arc<Record>> {
        match &self.kind {
            Kind::Record(record) => Some(record),
            Kind::Quarantined { .. } | Kind::Spec => None,
        }
    }
}

/// What the API server says of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It is allocated, to these devices of this node among others.
    Here(BTreeSet<DeviceName>),
    /// Nothing on this node is it.
    Stale(Reason),
    /// No answer that proves anything.
    Unknown(String),
}

/// What the sweep thinks of one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The kubelet shows a container that uses it.
    InUse,
    /// The kubelet asked for it not long ago.
    Asked,
    /// No container uses it, and it is allocated here.
    Allocated,
    /// Nothing is proven.
    Unknown(String),
    /// It looks stale, for too short a time yet.
    Suspect {
        /// Why.
        reason: Reason,
        /// Since when.
        since: Instant,
    },
    /// It is stale.
    Stale {
        /// Why.
        reason: Reason,
        /// Since when.
        since: Instant,
    },
}

impl Verdict {
    /// For metrics and scripts.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::InUse => "in_use",
            Self::Asked => "asked",
            Self::Allocated => "allocated",
            Self::Unknown(_) => "unknown",
            Self::Suspect { .. } => "suspect",
            Self::Stale { .. } => "stale",
        }
    }
}
