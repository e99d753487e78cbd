//! The claim controller's work: claims from the templates that pods name.
use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        core::v1::{Pod, PodResourceClaim, PodResourceClaimStatus},
        resource::v1::{ResourceClaim, ResourceClaimTemplate},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use serde_json::json;

use super::{ScheduleError, Scheduler, identity::Identity};
use crate::pod::PodClaim;

/// The annotation of generated claims that names the entry of the pod's `spec.resourceClaims`.
const POD_CLAIM_NAME: &str = "resource.kubernetes.io/pod-claim-name";

/// Whether a claim was made from a template.
pub(super) fn made(claim: &ResourceClaim) -> bool {
    claim.metadata.annotations.iter().any(|all| all.contains_key(POD_CLAIM_NAME))
}

impl Scheduler {
    /// Finds or makes the claim of each entry of `spec.resourceClaims`, and records the made ones in the pod's status.
    pub(super) async fn resolve(&self, pod: &Identity, object: &Pod) -> Result<Vec<PodClaim>, ScheduleError> {
        let statuses = object.status.iter().flat_map(|status| status.resource_claim_statuses.iter().flatten());
        let mut made: BTreeMap<_, _> =
            statuses.map(|status| (status.name.clone(), status.resource_claim_name.clone())).collect();
        let before = made.len();
        let mut claims = Vec::new();
        for entry in object.spec.iter().flat_map(|spec| spec.resource_claims.iter().flatten()) {
            let claim = match (&entry.resource_claim_name, &entry.resource_claim_template_name) {
                (Some(name), _) => Some(name.clone()),
                (None, Some(template)) => {
                    if !made.contains_key(&entry.name) {
                        made.insert(entry.name.clone(), Some(self.make(pod, entry, template).await?));
                    }
                    made.get(&entry.name).cloned().flatten()
                }
                (None, None) => return Err(ScheduleError::Malformed("the source of a claim")),
            };
            claims.extend(claim.map(|claim| PodClaim { name: entry.name.clone(), claim }));
        }
        if made.len() > before {
            let statuses =
                made.into_iter().map(|(name, claim)| PodResourceClaimStatus { name, resource_claim_name: claim });
            let patch = json!({"status": {"resourceClaimStatuses": statuses.collect::<Vec<_>>()}});
            let api = self.api::<Pod>(&pod.namespace);
            api.patch_status(&pod.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        }
        Ok(claims)
    }

    /// Makes a claim from a template, unless an earlier attempt has.
    async fn make(&self, pod: &Identity, entry: &PodResourceClaim, template: &str) -> Result<String, ScheduleError> {
        let api = self.api::<ResourceClaim>(&pod.namespace);
        let of_entry = |claim: &ResourceClaim| {
            let annotations = claim.metadata.annotations.as_ref();
            pod.owns(&claim.metadata) && annotations.and_then(|all| all.get(POD_CLAIM_NAME)) == Some(&entry.name)
        };
        let earlier = api.list(&ListParams::default()).await?.into_iter().find(of_entry);
        let claim = if let Some(claim) = earlier {
            claim
        } else {
            let template = self.api::<ResourceClaimTemplate>(&pod.namespace).get(template).await?;
            let template = template.spec.unwrap_or_default();
            let mut metadata = template.metadata.unwrap_or_default();
            metadata.annotations.get_or_insert_default().insert(POD_CLAIM_NAME.to_owned(), entry.name.clone());
            let metadata = ObjectMeta {
                generate_name: Some(format!("{}-{}-", pod.name, entry.name)),
                owner_references: Some(vec![pod.owner()]),
                annotations: metadata.annotations,
                labels: metadata.labels,
                ..ObjectMeta::default()
            };
            api.create(&PostParams::default(), &ResourceClaim { metadata, spec: template.spec, status: None }).await?
        };
        claim.metadata.name.ok_or(ScheduleError::Malformed("name"))
    }
}
