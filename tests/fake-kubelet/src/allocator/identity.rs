//! How claims refer to pods and to nodes.
use k8s_openapi::{
    api::{
        core::v1::Pod,
        resource::v1::{AllocationResult, ResourceClaim, ResourceClaimConsumerReference},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};

use super::ScheduleError;

/// Which pod it is.
pub(super) struct Identity {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
}

impl Identity {
    pub(super) fn of(pod: &Pod) -> Result<Self, ScheduleError> {
        let metadata = &pod.metadata;
        Ok(Self {
            namespace: metadata.namespace.clone().ok_or(ScheduleError::Malformed("namespace"))?,
            name: metadata.name.clone().ok_or(ScheduleError::Malformed("name"))?,
            uid: metadata.uid.clone().ok_or(ScheduleError::Malformed("uid"))?,
        })
    }

    /// As the owner of the claims that are made for it.
    pub(super) fn owner(&self) -> OwnerReference {
        OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }

    pub(super) fn owns(&self, object: &ObjectMeta) -> bool {
        let mut owners = object.owner_references.iter().flatten();
        owners.any(|owner| owner.uid == self.uid && owner.controller == Some(true))
    }

    /// As an entry of a claim's `reservedFor`.
    pub(super) fn consumer(&self) -> ResourceClaimConsumerReference {
        ResourceClaimConsumerReference {
            api_group: None,
            resource: "pods".to_owned(),
            name: self.name.clone(),
            uid: self.uid.clone(),
        }
    }

    pub(super) fn reserved(&self, claim: &ResourceClaim) -> bool {
        let mut consumers = claim.status.iter().flat_map(|status| status.reserved_for.iter().flatten());
        consumers.any(|consumer| consumer.uid == self.uid)
    }
}

/// Whether an allocation is for this node, or for all.
pub(super) fn reaches(allocation: &AllocationResult, node: &str) -> bool {
    let Some(selector) = &allocation.node_selector else {
        return true;
    };
    selector.node_selector_terms.iter().any(|term| {
        let fields = term.match_fields.iter().flatten();
        let mut names = fields.filter(|field| field.key == "metadata.name" && field.operator == "In");
        names.any(|field| field.values.iter().flatten().any(|name| name == node))
    })
}
