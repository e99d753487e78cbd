//! The special claim that the scheduler makes for a pod's extended resources.
use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        core::v1::{Node, Pod, PodExtendedResourceClaimStatus},
        resource::v1::{DeviceClaim, ResourceClaim, ResourceClaimSpec},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

use super::{
    ScheduleError, Scheduler,
    extended::{self, Extended},
    identity::Identity,
    quantity::Quantity,
    state::State,
};

/// What the claim is called before it is stored, and what the pod's containers call it here: no name for a real one.
pub(super) const NAME: &str = "<extended-resources>";
/// Marks the claim.
const ANNOTATION: &str = "resource.kubernetes.io/extended-resource-claim";

/// The claim of the pod, if an earlier attempt has made it.
fn made<'a>(pod: &Identity, state: &'a State) -> Option<&'a ResourceClaim> {
    let marked = |claim: &ResourceClaim| {
        let annotations = claim.metadata.annotations.as_ref();
        annotations.and_then(|all| all.get(ANNOTATION)).is_some_and(|value| value == "true")
    };
    state.claims.iter().find(|claim| marked(claim) && pod.owns(&claim.metadata))
}

/// The claim as it is to be allocated: the one that is stored, or one with [`NAME`].
pub(super) fn claim(pod: &Identity, state: &State, extended: &Extended) -> ResourceClaim {
    if let Some(made) = made(pod, state) {
        return made.clone();
    }
    let metadata = ObjectMeta {
        name: Some(NAME.to_owned()),
        namespace: Some(pod.namespace.clone()),
        annotations: Some([(ANNOTATION.to_owned(), "true".to_owned())].into()),
        owner_references: Some(vec![OwnerReference { block_owner_deletion: None, ..pod.owner() }]),
        ..ObjectMeta::default()
    };
    let devices = DeviceClaim { requests: Some(extended.requests.clone()), ..DeviceClaim::default() };
    ResourceClaim { metadata, spec: Some(ResourceClaimSpec { devices: Some(devices) }), status: None }
}

impl Scheduler {
    /// What the pod's extended resources ask for. Those that the node's device plugins have are left to these.
    pub(super) async fn extended(&self, pod: &Pod, state: &State) -> Result<Option<Extended>, ScheduleError> {
        let Some(spec) = &pod.spec else {
            return Ok(None);
        };
        let resources = extended::resources(spec)?;
        if resources.is_empty() {
            return Ok(None);
        }
        let node = Api::<Node>::all(self.client().clone()).get_opt(self.node()).await?;
        let allocatable = node.and_then(|node| node.status?.allocatable).unwrap_or_default();
        let mut classes = BTreeMap::new();
        for resource in resources {
            let class = extended::class(&resource, &state.classes).filter(|_| self.features().extended_resources);
            let name = class.and_then(|class| class.metadata.name.clone());
            let of_plugin = allocatable.get(&resource).map(Quantity::try_from).transpose()?;
            match name {
                Some(class) if of_plugin.is_none_or(|amount| amount == Quantity::ZERO) => {
                    classes.insert(resource, class);
                }
                None if of_plugin.is_none() => return Err(ScheduleError::Insufficient(resource)),
                _ => {}
            }
        }
        let extended = extended::requests(spec, &classes)?;
        Ok(Some(extended).filter(|extended| !extended.requests.is_empty()))
    }

    /// Stores the claim unless it is, and returns its name.
    pub(super) async fn store(&self, pod: &Identity, claim: ResourceClaim) -> Result<String, ScheduleError> {
        let missing = ScheduleError::Malformed("name");
        if claim.metadata.uid.is_some() {
            return claim.metadata.name.ok_or(missing);
        }
        let generate_name = Some(format!("{}-extended-resources-", pod.name));
        let metadata = ObjectMeta { name: None, generate_name, ..claim.metadata };
        let claim = ResourceClaim { metadata, ..claim };
        let stored = self.api::<ResourceClaim>(&pod.namespace).create(&PostParams::default(), &claim).await?;
        stored.metadata.name.ok_or(missing)
    }

    /// Tells in the pod's status which claim it is and which containers use it.
    pub(super) async fn tell(&self, pod: &Identity, name: &str, extended: &Extended) -> Result<(), ScheduleError> {
        let status = PodExtendedResourceClaimStatus {
            resource_claim_name: name.to_owned(),
            request_mappings: extended.mappings.clone(),
        };
        let patch = Patch::Merge(json!({"status": {"extendedResourceClaimStatus": status}}));
        self.api::<Pod>(&pod.namespace).patch_status(&pod.name, &PatchParams::default(), &patch).await?;
        Ok(())
    }
}
