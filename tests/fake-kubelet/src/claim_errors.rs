//! What can go wrong with a pod's claims, in the kubelet's words.
use std::io;

use tonic::Status;

use crate::{driver::go_text, plugins::PluginError};

/// Why a pod cannot start; the texts are the kubelet's, as they show in the pod's events.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The claim cannot be read.
    #[error("fetch ResourceClaim {name}: {source}")]
    Fetch {
        /// The claim's name.
        name: String,
        /// The API server's answer.
        source: kube::Error,
    },
    /// The claim is not reserved for the pod.
    #[error("pod {pod} ({pod_uid}) is not allowed to use ResourceClaim {claim} ({claim_uid})")]
    NotReserved {
        /// The pod's name.
        pod: String,
        /// The pod's UID.
        pod_uid: String,
        /// The claim's name.
        claim: String,
        /// The claim's UID.
        claim_uid: String,
    },
    /// The claim is not allocated.
    #[error("ResourceClaim {0}: not allocated")]
    NotAllocated(String),
    /// A driver of the allocation is not there.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// The claim of this name that was prepared before is not unprepared yet.
    #[error(
        "old ResourceClaim with same name {name} and different UID {uid} still exists (previous pod force-deleted?!)"
    )]
    Replaced {
        /// The name that both have.
        name: String,
        /// The UID of the old one.
        uid: String,
    },
    /// The kubelet's own state cannot be saved.
    #[error("checkpoint ResourceClaim cache: {0}")]
    Checkpoint(#[from] io::Error),
    /// The driver failed, or answered wrongly.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The pod's container names a claim that the pod does not have.
    #[error("internal error: unable to get claim info for ResourceClaim {claim} in namespace {namespace}")]
    Unknown {
        /// The claim's name.
        claim: String,
        /// The pod's namespace.
        namespace: String,
    },
}

impl PrepareError {
    /// The message of the pod's `FailedPrepareDynamicResources` event.
    pub fn event(&self) -> String {
        format!("Failed to prepare dynamic resources: prepare dynamic resources: {self}")
    }
}

/// Why a pod's claims are not unprepared; the pod stays terminating and the kubelet tries again.
#[derive(Debug, thiserror::Error)]
pub enum UnprepareError {
    /// A driver of the allocation is not there.
    #[error("unprepare dynamic resources: {0}")]
    Plugin(#[from] PluginError),
    /// The driver failed, or answered wrongly.
    #[error("unprepare dynamic resources: {0}")]
    Call(#[from] CallError),
    /// The kubelet's own state cannot be saved.
    #[error("unprepare dynamic resources: checkpoint ResourceClaim state: {0}")]
    Checkpoint(#[from] io::Error),
}

/// What can be wrong with a driver's answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The call as a whole failed.
    #[error("{method}: {}", go_text(status))]
    Rpc {
        /// The method.
        method: &'static str,
        /// What came back.
        status: Status,
    },
    /// An answer for a claim that was not asked for.
    #[error("{method} returned result for unknown claim UID {uid}")]
    UnknownUid {
        /// The method.
        method: &'static str,
        /// The UID that was not asked for.
        uid: String,
    },
    /// The driver failed for one claim.
    #[error("{method} failed for ResourceClaim {claim}: {error}")]
    Claim {
        /// The method.
        method: &'static str,
        /// The claim's name.
        claim: String,
        /// The driver's words.
        error: String,
    },
    /// Claims without an answer.
    #[error("{method} skipped {count} ResourceClaims")]
    Skipped {
        /// The method.
        method: &'static str,
        /// How many.
        count: usize,
    },
}
