//! The scheduler's and the claim controller's reads and writes around [`allocate`](super::allocate).
use std::collections::BTreeMap;

use k8s_openapi::api::{
    core::v1::{Container as PodContainer, Pod},
    resource::v1::{AllocationResult, ResourceClaim, ResourceClaimStatus},
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, PostParams},
};
use tokio::sync::Mutex;

use super::{
    Features, NotAQuantity, Unallocatable, extended::Extended, extended_claim, identity::Identity, state::State,
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
    /// A resource that neither a class nor the node has.
    #[error("Insufficient {0}")]
    Insufficient(String),
    /// What a stored object asks for or consumes is no amount.
    #[error(transparent)]
    Quantity(#[from] NotAQuantity),
}

/// Schedules pods to one node. Its writes are one after the other; two of them must not share a cluster.
pub struct Scheduler {
    client: Client,
    node: String,
    features: Features,
    turn: Mutex<()>,
}

/// How often a write is tried that others' writes get in the way of.
const ATTEMPTS: usize = 5;

impl Scheduler {
    /// A scheduler for the node of this name.
    pub fn new(client: Client, node: impl Into<String>) -> Self {
        Self { client, node: node.into(), features: Features::default(), turn: Mutex::new(()) }
    }

    /// With these features on and the others off.
    pub fn with_features(mut self, features: Features) -> Self {
        self.features = features;
        self
    }

    /// Makes the claims that a stored pod's templates ask for, allocates all of its claims and reserves them for it.
    /// Returns the pod as the kubelet sees it. Calling it again, also after an error, goes on where it ended.
    pub async fn schedule(&self, pod: &Pod) -> Result<PodSpec, ScheduleError> {
        let _turn = self.turn.lock().await;
        let pod = Identity::of(pod)?;
        let object = self.api::<Pod>(&pod.namespace).get(&pod.name).await?;
        let mut claims = self.resolve(&pod, &object).await?;
        let mut state = State::read(&self.client).await?;
        // Nothing is written before all of the pod's claims fit.
        let planned = self.plan(&pod, &claims, &mut state).await?;
        let extended = self.extended(&object, &state).await?.unwrap_or_default();
        let special = if extended.requests.is_empty() {
            None
        } else {
            let claim = extended_claim::claim(&pod, &state, &extended);
            let allocation = state.allocation(&pod, &claim, &self.node, self.features)?;
            Some((claim, allocation))
        };
        for (name, allocation) in planned {
            self.reserve(&pod, &name, &allocation).await?;
        }
        if let Some((claim, allocation)) = special {
            let name = self.store(&pod, claim).await?;
            self.reserve(&pod, &name, &allocation).await?;
            self.tell(&pod, &name, &extended).await?;
            claims.push(PodClaim { name: extended_claim::NAME.to_owned(), claim: name });
        }
        let spec = object.spec.iter();
        let containers = spec.flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
        let containers = containers.map(|one| Container { name: one.name.clone(), uses: uses(one, &extended) });
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

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn node(&self) -> &str {
        &self.node
    }

    pub(super) fn features(&self) -> Features {
        self.features
    }

    pub(super) fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// The allocation of each claim, old or new.
    async fn plan(
        &self,
        pod: &Identity,
        claims: &[PodClaim],
        state: &mut State,
    ) -> Result<BTreeMap<String, AllocationResult>, ScheduleError> {
        let mut planned = BTreeMap::new();
        for PodClaim { claim: name, .. } in claims {
            if !planned.contains_key(name) {
                let claim = self.api::<ResourceClaim>(&pod.namespace).get(name).await?;
                planned.insert(name.clone(), state.allocation(pod, &claim, &self.node, self.features)?);
            }
        }
        Ok(planned)
    }

    /// Writes a claim's allocation, and reserves it.
    async fn reserve(&self, pod: &Identity, name: &str, allocation: &AllocationResult) -> Result<(), ScheduleError> {
        self.change(&pod.namespace, name, |claim| {
            let status = claim.status.get_or_insert_default();
            status.allocation.get_or_insert_with(|| allocation.clone());
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

/// What a container says that it uses, and what its extended resources have become.
fn uses(container: &PodContainer, extended: &Extended) -> Vec<ClaimUse> {
    let claims = container.resources.iter().flat_map(|resources| resources.claims.iter().flatten());
    let claims = claims.map(|used| ClaimUse { claim: used.name.clone(), request: used.request.clone() });
    let special = extended.mappings.iter().filter(|mapping| mapping.container_name == container.name);
    let special = special.map(|mapping| ClaimUse {
        claim: extended_claim::NAME.to_owned(),
        request: Some(mapping.request_name.clone()),
    });
    claims.chain(special).collect()
}
