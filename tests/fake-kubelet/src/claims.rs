//! Prepares and unprepares the claims of pods, in the order and with the checks and words of the kubelet's DRA manager.
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::{Api, Client};
use kubelet_api::dra::v1::Claim;
use tonic::Status;

use crate::{
    checkpoint::{Cache, ClaimInfo},
    driver::{Driver, go_text},
    plugins::{PluginError, Plugins},
    pod::{PodSpec, RunningPod},
};

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

const PREPARE: &str = "NodePrepareResources";
const UNPREPARE: &str = "NodeUnprepareResources";

/// The kubelet's DRA manager.
pub(crate) struct Claims {
    client: Client,
    plugins: Arc<Plugins>,
    cache: Mutex<Cache>,
}

/// What one driver is asked in one call.
struct Batch {
    driver: Driver,
    claims: Vec<Claim>,
}

type Key = (String, String);

impl Claims {
    pub(crate) fn load(file: PathBuf, client: Client, plugins: Arc<Plugins>) -> io::Result<Self> {
        Ok(Self { client, plugins, cache: Mutex::new(Cache::load(file)?) })
    }

    /// What happens before a sandbox is made: all claims of the pod that are not prepared yet are.
    pub(crate) async fn prepare(&self, pod: &PodSpec) -> Result<RunningPod, PrepareError> {
        let mut fetched = Vec::new();
        for pod_claim in &pod.claims {
            let info = self.fetch(pod, &pod_claim.claim).await?;
            // Every driver must be there, even for claims that are prepared; and before anything is remembered.
            let drivers = info.drivers.keys().map(|name| self.plugins.get(name)).collect::<Result<Vec<_>, _>>()?;
            fetched.push((info, drivers));
        }
        let (batches, pending) = self.remember(pod, fetched)?;
        for Batch { driver, claims } in batches {
            let answer = driver.prepare(claims.clone()).await;
            let answer = answer.map_err(|status| CallError::Rpc { method: PREPARE, status })?;
            let answered = answer.claims.len();
            for (uid, result) in answer.claims {
                check(PREPARE, &claims, &uid, result.error)?;
                let mut cache = self.lock();
                if let Some(info) = cache.claims.values_mut().find(|info| info.uid == uid) {
                    let devices = result.devices.into_iter().map(Into::into).collect();
                    info.drivers.insert(driver.name.clone(), devices);
                }
            }
            all_answered(PREPARE, claims.len(), answered)?;
        }
        let mut cache = self.lock();
        for key in pending {
            if let Some(info) = cache.claims.get_mut(&key) {
                info.prepared = true;
            }
        }
        cache.save()?;
        containers(&cache, pod)
    }

    /// Reads one claim and checks that the pod may use it.
    async fn fetch(&self, pod: &PodSpec, name: &str) -> Result<ClaimInfo, PrepareError> {
        let claims: Api<ResourceClaim> = Api::namespaced(self.client.clone(), &pod.namespace);
        let claim = claims.get(name).await;
        let claim = claim.map_err(|source| PrepareError::Fetch { name: name.to_owned(), source })?;
        let uid = claim.metadata.uid.unwrap_or_default();
        let status = claim.status.unwrap_or_default();
        let mut consumers = status.reserved_for.iter().flatten();
        if !consumers.any(|consumer| consumer.resource == "pods" && consumer.uid == pod.uid) {
            return Err(PrepareError::NotReserved {
                pod: pod.name.clone(),
                pod_uid: pod.uid.clone(),
                claim: name.to_owned(),
                claim_uid: uid,
            });
        }
        let allocation = status.allocation.ok_or_else(|| PrepareError::NotAllocated(name.to_owned()))?;
        let results = allocation.devices.and_then(|devices| devices.results).unwrap_or_default();
        Ok(ClaimInfo {
            namespace: pod.namespace.clone(),
            name: name.to_owned(),
            uid,
            pods: BTreeSet::new(),
            drivers: results.into_iter().map(|result| (result.driver, Vec::new())).collect(),
            prepared: false,
        })
    }

    /// Saves that the pod uses its claims, before any driver hears of it; returns the calls to make.
    fn remember(
        &self,
        pod: &PodSpec,
        fetched: Vec<(ClaimInfo, Vec<Driver>)>,
    ) -> Result<(Vec<Batch>, Vec<Key>), PrepareError> {
        let mut batches = BTreeMap::<String, Batch>::new();
        let mut pending = Vec::new();
        let mut cache = self.lock();
        for (info, drivers) in fetched {
            let key = (info.namespace.clone(), info.name.clone());
            let uid = info.uid.clone();
            let known = cache.claims.entry(key.clone()).or_insert(info);
            if known.uid != uid {
                return Err(PrepareError::Replaced { name: key.1, uid: known.uid.clone() });
            }
            known.pods.insert(pod.uid.clone());
            if !known.prepared {
                for driver in drivers {
                    let name = driver.name.clone();
                    let batch = batches.entry(name).or_insert_with(|| Batch { driver, claims: Vec::new() });
                    batch.claims.push(known.message());
                }
                pending.push(key);
            }
            cache.save()?;
        }
        Ok((batches.into_values().collect(), pending))
    }

    /// What happens once all containers are gone: claims that no other pod uses are unprepared. An error leaves the pod's
    /// claims remembered, to be tried again.
    pub(crate) async fn unprepare(&self, pod_uid: &str) -> Result<(), UnprepareError> {
        let (batches, last) = self.last_uses(pod_uid);
        for (name, claims) in batches {
            let driver = self.plugins.get(&name)?;
            let answer = driver.unprepare(claims.clone()).await;
            let answer = answer.map_err(|status| CallError::Rpc { method: UNPREPARE, status })?;
            let answered = answer.claims.len();
            for (uid, result) in answer.claims {
                check(UNPREPARE, &claims, &uid, result.error)?;
            }
            all_answered(UNPREPARE, claims.len(), answered)?;
        }
        let mut cache = self.lock();
        cache.claims.retain(|key, _| !last.contains(key));
        Ok(cache.save()?)
    }

    fn last_uses(&self, pod_uid: &str) -> (BTreeMap<String, Vec<Claim>>, Vec<Key>) {
        let mut batches = BTreeMap::<String, Vec<Claim>>::new();
        let mut last = Vec::new();
        for (key, info) in &mut self.lock().claims {
            if !info.pods.contains(pod_uid) {
                continue;
            }
            if info.pods.len() > 1 {
                info.pods.remove(pod_uid);
                continue;
            }
            last.push(key.clone());
            for driver in info.drivers.keys() {
                batches.entry(driver.clone()).or_default().push(info.message());
            }
        }
        (batches, last)
    }

    /// The UIDs of all pods that claims are remembered for.
    pub(crate) fn pods(&self) -> BTreeSet<String> {
        self.lock().claims.values().flat_map(|info| info.pods.iter().cloned()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check(method: &'static str, asked: &[Claim], uid: &str, error: String) -> Result<(), CallError> {
    let Some(claim) = asked.iter().find(|claim| claim.uid == uid) else {
        return Err(CallError::UnknownUid { method, uid: uid.to_owned() });
    };
    if error.is_empty() { Ok(()) } else { Err(CallError::Claim { method, claim: claim.name.clone(), error }) }
}

fn all_answered(method: &'static str, asked: usize, answered: usize) -> Result<(), CallError> {
    match asked.saturating_sub(answered) {
        0 => Ok(()),
        count => Err(CallError::Skipped { method, count }),
    }
}

/// The CDI names that each container is created with.
fn containers(cache: &Cache, pod: &PodSpec) -> Result<RunningPod, PrepareError> {
    let mut running = RunningPod::default();
    for container in &pod.containers {
        let names = running.containers.entry(container.name.clone()).or_default();
        for used in &container.uses {
            let pod_claim = pod.claims.iter().find(|claim| claim.name == used.claim);
            let key = (pod.namespace.clone(), pod_claim.map_or(&used.claim, |claim| &claim.claim).clone());
            let Some(info) = cache.claims.get(&key) else {
                return Err(PrepareError::Unknown { claim: key.1, namespace: key.0 });
            };
            names.extend(info.cdi(used.request.as_deref()));
        }
    }
    Ok(running)
}
