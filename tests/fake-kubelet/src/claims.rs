//! Prepares and unprepares the claims of pods, in the order and with the checks and words of the kubelet's DRA manager.
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    checkpoint::{Cache, ClaimInfo, Device},
    claim_errors::{CallError, PrepareError, UnprepareError},
    driver::Driver,
    plugins::Plugins,
    pod::{PodSpec, RunningPod},
};
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::{Api, Client};
use kubelet_api::dra::v1::Claim;

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

    /// What drivers have prepared of a claim that is known.
    pub(crate) fn drivers(&self, namespace: &str, name: &str) -> Option<BTreeMap<String, Vec<Device>>> {
        let cache = self.lock();
        Some(cache.claims.get(&(namespace.to_owned(), name.to_owned()))?.drivers.clone())
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
