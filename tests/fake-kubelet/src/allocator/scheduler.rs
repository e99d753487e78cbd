//! The scheduler's and the claim controller's reads and writes around [`allocate`].
use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::{
        core::v1::{Pod, PodResourceClaim, PodResourceClaimStatus},
        resource::v1::{DeviceClass, ResourceClaim, ResourceClaimStatus, ResourceClaimTemplate, ResourceSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::sync::Mutex;

use super::{
    Unallocatable, allocate,
    identity::{Identity, devices_of, reaches},
};
use crate::pod::{ClaimUse, Container, PodClaim, PodSpec};

/// Why a pod cannot be scheduled, or its claims not be released.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    /// The API server refuses, or lacks something.
    #[error(transparent)]
    Api(#[from] kube::Error),
    /// A claim does not fit.
    #[error("claim {claim}: {source}")]
    Unallocatable {
        /// The claim's name.
        claim: String,
        /// Why not.
        source: Unallocatable,
    },
    /// A claim is allocated on another node.
    #[error("claim {0}: allocated where this node cannot reach it")]
    Elsewhere(String),
    /// A generated claim belongs to another pod.
    #[error("claim {0}: not owned by the pod")]
    NotOwner(String),
    /// The object lacks what every stored one has.
    #[error("a stored object lacks {0}")]
    Malformed(&'static str),
}

/// Schedules pods to one node. Its writes are one after the other; two of them must not share a cluster.
pub struct Scheduler {
    client: Client,
    node: String,
    turn: Mutex<()>,
}

/// The annotation of generated claims that names the entry of the pod's `spec.resourceClaims`.
const POD_CLAIM_NAME: &str = "resource.kubernetes.io/pod-claim-name";
/// How often a write is tried that others' writes get in the way of.
const ATTEMPTS: usize = 5;

impl Scheduler {
    /// A scheduler for the node of this name.
    pub fn new(client: Client, node: impl Into<String>) -> Self {
        Self { client, node: node.into(), turn: Mutex::new(()) }
    }

    /// Makes the claims that a stored pod's templates ask for, allocates all of its claims and reserves them for it.
    /// Returns the pod as the kubelet sees it. Calling it again, also after an error, goes on where it ended.
    pub async fn schedule(&self, pod: &Pod) -> Result<PodSpec, ScheduleError> {
        let _turn = self.turn.lock().await;
        let pod = Identity::of(pod)?;
        let object = self.api::<Pod>(&pod.namespace).get(&pod.name).await?;
        let claims = self.resolve(&pod, &object).await?;
        for claim in &claims {
            self.reserve(&pod, &claim.claim).await?;
        }
        let uses = |container: &k8s_openapi::api::core::v1::Container| Container {
            name: container.name.clone(),
            uses: container
                .resources
                .iter()
                .flat_map(|resources| resources.claims.iter().flatten())
                .map(|used| ClaimUse { claim: used.name.clone(), request: used.request.clone() })
                .collect(),
        };
        let containers =
            object.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers).map(uses));
        Ok(PodSpec { containers: containers.collect(), claims, namespace: pod.namespace, name: pod.name, uid: pod.uid })
    }

    /// What the claim controller does once a pod is done: its claims are no longer reserved for it; those that nobody
    /// uses then are deallocated, and deleted if they were made for the pod. The kubelet must have stopped the pod.
    pub async fn release(&self, pod: &Pod) -> Result<(), ScheduleError> {
        let _turn = self.turn.lock().await;
        let pod = Identity::of(pod)?;
        let api = self.api::<ResourceClaim>(&pod.namespace);
        for claim in api.list(&ListParams::default()).await? {
            let name = claim.metadata.name.clone().ok_or(ScheduleError::Malformed("name"))?;
            if pod.reserved(&claim) {
                self.change(&pod.namespace, &name, |claim| {
                    let status = claim.status.get_or_insert_default();
                    let consumers = status.reserved_for.get_or_insert_default();
                    consumers.retain(|consumer| consumer.uid != pod.uid);
                    if consumers.is_empty() {
                        *status = ResourceClaimStatus::default();
                    }
                    Ok(())
                })
                .await?;
            }
            if pod.owns(&claim.metadata) {
                api.delete(&name, &DeleteParams::default()).await?;
            }
        }
        Ok(())
    }

    fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Finds or makes the claim of each entry of `spec.resourceClaims`, and records the made ones in the pod's status.
    async fn resolve(&self, pod: &Identity, object: &Pod) -> Result<Vec<PodClaim>, ScheduleError> {
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

    /// Allocates a claim unless it is, and reserves it.
    async fn reserve(&self, pod: &Identity, name: &str) -> Result<(), ScheduleError> {
        let all = ListParams::default();
        let slices = Api::<ResourceSlice>::all(self.client.clone()).list(&all).await?.items;
        let classes = Api::<DeviceClass>::all(self.client.clone()).list(&all).await?.items;
        let claims = Api::<ResourceClaim>::all(self.client.clone()).list(&all).await?.items;
        let in_use: Vec<_> = claims.iter().flat_map(devices_of).collect::<BTreeSet<_>>().into_iter().collect();
        self.change(&pod.namespace, name, |claim| {
            let of_template = claim.metadata.annotations.iter().any(|all| all.contains_key(POD_CLAIM_NAME));
            if of_template && !pod.owns(&claim.metadata) {
                return Err(ScheduleError::NotOwner(name.to_owned()));
            }
            let allocated = claim.status.as_ref().and_then(|status| status.allocation.clone());
            let allocation = match allocated {
                Some(allocation) if !reaches(&allocation, &self.node) => {
                    return Err(ScheduleError::Elsewhere(name.to_owned()));
                }
                Some(allocation) => allocation,
                None => allocate(claim, &slices, &classes, &in_use, &self.node)
                    .map_err(|source| ScheduleError::Unallocatable { claim: name.to_owned(), source })?,
            };
            let status = claim.status.get_or_insert_default();
            status.allocation = Some(allocation);
            let consumers = status.reserved_for.get_or_insert_default();
            if consumers.iter().all(|consumer| consumer.uid != pod.uid) {
                consumers.push(pod.consumer());
            }
            Ok(())
        })
        .await
    }

    /// Changes a claim's status, again on what others have written in between.
    async fn change(
        &self,
        namespace: &str,
        name: &str,
        change: impl Fn(&mut ResourceClaim) -> Result<(), ScheduleError>,
    ) -> Result<(), ScheduleError> {
        let api = self.api::<ResourceClaim>(namespace);
        let mut attempt = 1;
        loop {
            let mut claim = api.get(name).await?;
            change(&mut claim)?;
            match api.replace_status(name, &PostParams::default(), &claim).await {
                Err(kube::Error::Api(status)) if status.is_conflict() && attempt < ATTEMPTS => attempt += 1,
                written => return Ok(written.map(drop)?),
            }
        }
    }
}
