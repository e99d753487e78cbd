//! Which pods may use which claims: those known at prepare time, and those that came later, whom the API server knows.
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::{Duration, Instant},
};

use aliquot_model::GpuUuid;
use dra_plugin::{ClaimRef, ClaimUid, PodRef};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimConsumerReference};
use kube::Api;

use super::{attribute::Located, cgroup::PodUid, types::Holding};

/// For how long all claims of a lookup may take.
const LOOKUP: Duration = Duration::from_secs(5);
/// How many claims are read at a time.
const AT_A_TIME: usize = 8;
/// How long the API server is left alone after it has failed.
const REST: Duration = Duration::from_secs(15);
/// How long a pod without a claim is left alone. It stays one as a rule, since pods are entered in their claims before
/// they start; so the pause doubles, up to the longest.
const STRANGER: (Duration, Duration) = (Duration::from_mins(1), Duration::from_hours(1));

/// Why the pods of claims aren't known.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// The API server didn't give a claim.
    #[error("ResourceClaim {claim} can't be read")]
    Claim {
        /// The claim.
        claim: ClaimRef,
        /// What it said.
        source: Box<kube::Error>,
    },
    /// The API server didn't answer in time.
    #[error("the API server didn't give the claims within {} s", LOOKUP.as_secs())]
    Overdue,
}

struct Stranger {
    until: Instant,
    pause: Duration,
}

/// What is known of the pods of claims beyond what the holdings say.
pub(super) struct Pods {
    client: kube::Client,
    reserved: HashMap<ClaimUid, Vec<PodRef>>,
    strangers: HashMap<(GpuUuid, PodUid), Stranger>,
    rest_until: Option<Instant>,
    trouble: Option<String>,
}

impl Pods {
    pub(super) fn new(client: kube::Client) -> Self {
        Self { client, reserved: HashMap::new(), strangers: HashMap::new(), rest_until: None, trouble: None }
    }

    /// The holdings with all the pods that are known.
    pub(super) fn complete(&self, holdings: &[Holding]) -> Vec<Holding> {
        let mut complete = holdings.to_vec();
        for holding in &mut complete {
            for pod in self.reserved.get(holding.claim.uid()).into_iter().flatten() {
                if !holding.pods.contains(pod) {
                    holding.pods.push(pod.clone());
                }
            }
        }
        complete
    }

    /// Asks for the claims of pods that are on a GPU without being known there. What can't be found out stays unknown.
    pub(super) async fn look_up(&mut self, holdings: &[Holding], readings: &[Located], now: Instant) {
        let claims: HashSet<&ClaimUid> = holdings.iter().map(|holding| holding.claim.uid()).collect();
        self.reserved.retain(|claim, _| claims.contains(claim));
        let unknown = self.unknown(holdings, readings);
        let new: Vec<_> =
            unknown.iter().filter(|at| self.strangers.get(*at).is_none_or(|known| known.until <= now)).collect();
        let gpus = new.iter().map(|(gpu, _)| gpu).collect();
        if !new.is_empty() && self.refresh(holdings, &gpus, now).await {
            let still = self.unknown(holdings, readings);
            for at in new.into_iter().filter(|at| still.contains(*at)) {
                let pause = self.strangers.get(at).map_or(STRANGER.0, |known| STRANGER.1.min(known.pause * 2));
                self.strangers.insert(at.clone(), Stranger { until: now + pause, pause });
            }
        }
        self.strangers.retain(|at, known| known.until > now || unknown.contains(at));
    }

    /// Reads who may use the claims on these GPUs, each claim once. Whether it is known; trouble is in the log.
    ///
    /// A pod that is known by one claim may have come to another later, so this is also what makes a figure fit to act
    /// upon.
    pub(super) async fn refresh(&mut self, holdings: &[Holding], gpus: &BTreeSet<&GpuUuid>, now: Instant) -> bool {
        if self.rest_until.is_some_and(|until| now < until) {
            return false;
        }
        let on_them = holdings.iter().filter(|holding| gpus.contains(&holding.gpu));
        let claims: BTreeSet<ClaimRef> = on_them.map(|holding| holding.claim.clone()).collect();
        let reads = claims.into_iter().map(|claim| read(self.client.clone(), claim));
        let all = stream::iter(reads).buffer_unordered(AT_A_TIME).try_collect::<Vec<_>>();
        let answers = tokio::time::timeout(LOOKUP, all).await.unwrap_or(Err(Error::Overdue));
        self.rest_until = answers.is_err().then(|| now + REST);
        let trouble = answers.as_ref().err().map(|error| crate::report(error));
        if let Some(error) = trouble.as_ref().filter(|trouble| self.trouble.as_ref() != Some(trouble)) {
            tracing::warn!(error, "the pods of claims aren't known; nothing is done on a guess");
        }
        self.trouble = trouble;
        self.reserved.extend(answers.unwrap_or_default());
        self.trouble.is_none()
    }

    /// Pods that hold nothing of the GPU that they are on, as far as is known.
    fn unknown(&self, holdings: &[Holding], readings: &[Located]) -> HashSet<(GpuUuid, PodUid)> {
        let mut unknown = HashSet::new();
        for reading in readings {
            let on_it = || holdings.iter().filter(|holding| holding.gpu == reading.gpu);
            let known: HashSet<&str> = on_it()
                .flat_map(|holding| {
                    holding.pods.iter().chain(self.reserved.get(holding.claim.uid()).into_iter().flatten())
                })
                .map(|pod| pod.uid.as_str())
                .collect();
            let pods = reading.processes.iter().filter_map(|(_, origin)| origin.pod.as_ref());
            let pods = pods.filter(|pod| !known.contains(pod.as_str()));
            unknown.extend(pods.map(|pod| (reading.gpu.clone(), pod.clone())));
        }
        unknown
    }
}

/// The pods of one claim. A claim that is gone, or is another by now, has none.
async fn read(client: kube::Client, claim: ClaimRef) -> Result<(ClaimUid, Vec<PodRef>), Error> {
    let claims = Api::<ResourceClaim>::namespaced(client, claim.namespace());
    let found = match claims.get_opt(claim.name()).await {
        Ok(found) => found.filter(|found| found.metadata.uid.as_deref() == Some(claim.uid().as_str())),
        Err(source) => return Err(Error::Claim { claim, source: Box::new(source) }),
    };
    let reserved = found.and_then(|found| found.status?.reserved_for).unwrap_or_default();
    Ok((claim.uid().clone(), reserved.into_iter().filter_map(pod).collect()))
}

fn pod(consumer: ResourceClaimConsumerReference) -> Option<PodRef> {
    let is_pod = consumer.resource == "pods" && consumer.api_group.unwrap_or_default().is_empty();
    is_pod.then_some(PodRef { name: consumer.name, uid: consumer.uid })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sharing::guard::testing::{Api as FakeApi, gpu, holding, located, pod, process};

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[tokio::test]
    async fn a_pod_that_came_later_is_found_by_its_claim_and_asked_for_once() {
        let api = FakeApi::default();
        api.claim("a", "uid-a", &["p", "late"]);
        let (mut pods, now) = (Pods::new(api.client()), Instant::now());
        let holdings = [holding("a", 0, 8, &["p"])];
        let readings = [located(0, vec![process(2, "p", None), process(3, "late", None), process(4, "", None)])];
        for tick in 0..3 {
            pods.look_up(&holdings, &readings, now + seconds(tick)).await;
        }
        assert_eq!(pods.complete(&holdings)[0].pods, [pod("p"), pod("late")]);
        assert_eq!(api.requests(), ["GET /apis/resource.k8s.io/v1/namespaces/team/resourceclaims/a"]);
    }

    #[tokio::test]
    async fn a_stranger_costs_ever_fewer_lookups() {
        let api = FakeApi::default();
        api.claim("a", "uid-a", &["p"]);
        let (mut pods, now) = (Pods::new(api.client()), Instant::now());
        let (holdings, readings) = ([holding("a", 0, 8, &["p"])], [located(0, vec![process(2, "dcgm", None)])]);
        let mut asked = Vec::new();
        for second in (0..3600).step_by(2) {
            let before = api.requests().len();
            pods.look_up(&holdings, &readings, now + seconds(second)).await;
            if api.requests().len() > before {
                asked.push(second / 60);
            }
        }
        assert_eq!(asked, [0, 1, 3, 7, 15, 31]);
    }

    #[tokio::test]
    async fn a_claim_that_is_another_by_now_gives_no_pod() {
        let api = FakeApi::default();
        api.claim("a", "another-uid", &["late"]);
        let (mut pods, holdings) = (Pods::new(api.client()), [holding("a", 0, 8, &["p"]), holding("b", 0, 8, &["q"])]);
        assert!(pods.refresh(&holdings, &BTreeSet::from([&gpu(0)]), Instant::now()).await);
        assert_eq!(pods.complete(&holdings), holdings);
    }

    #[tokio::test]
    async fn an_api_server_in_trouble_makes_no_stranger_and_is_left_alone_for_a_while() {
        let api = FakeApi::default();
        api.fail("resourceclaims", 500, "etcd is gone");
        let (mut pods, now) = (Pods::new(api.client()), Instant::now());
        let (holdings, readings) = ([holding("a", 0, 8, &[])], [located(0, vec![process(2, "p", None)])]);
        pods.look_up(&holdings, &readings, now).await;
        let error = pods.trouble.clone().unwrap();
        assert!(error.contains("team/a") && error.contains("etcd is gone"), "{error}");
        pods.look_up(&holdings, &readings, now + seconds(2)).await;
        assert!(!pods.refresh(&holdings, &BTreeSet::from([&gpu(0)]), now + seconds(4)).await);
        assert_eq!(api.requests().len(), 1);
        api.heal();
        api.claim("a", "uid-a", &["p"]);
        pods.look_up(&holdings, &readings, now + seconds(16)).await;
        assert_eq!(pods.complete(&holdings)[0].pods, [pod("p")]);
    }
}
