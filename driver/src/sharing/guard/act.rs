//! Carries out verdicts: events, evictions and kills.
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use aliquot_model::GpuUuid;
use futures::future::join_all;
use k8s_openapi::{
    api::{
        core::v1::{self as core, ObjectReference},
        policy::v1::Eviction,
    },
    apimachinery::pkg::apis::meta::v1::{DeleteOptions, ObjectMeta, Preconditions},
};
use kube::{
    Api,
    api::PostParams,
    core::Status,
    runtime::events::{Event, EventType, Recorder, Reporter},
};

use super::{
    judge::{Action, Verdict, Victim},
    kill::{Spared, kill},
    note::{Outcome, note},
    process::{Procfs, Ticks},
    types::Pod,
};

/// How long one call may take. Those of a tick are made at a time, and the next tick waits for them.
const ONE_CALL: Duration = Duration::from_secs(5);

/// How often what was done since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Actions {
    /// Claims over their share that were told of and nothing else.
    pub observed: u64,
    /// Pods that were evicted.
    pub evicted: u64,
    /// Processes that were killed.
    pub killed: u64,
    /// Evictions that a disruption budget or the API server refused, and processes that the kernel didn't let be killed.
    pub refused: u64,
    /// Evictions that didn't reach the API server, or broke it, and processes that couldn't be told from others any more.
    pub failed: u64,
}

/// What evicting a pod came to.
enum Evicted {
    Yes,
    /// It is gone, or another pod has its name.
    Gone,
    /// The API server doesn't want it.
    Refused(String),
    /// Nobody knows.
    Failed(String),
}

/// What acts.
pub(super) struct Hands {
    client: kube::Client,
    reporter: Reporter,
    /// Folds what comes again soon, and changes nothing, into one event.
    lasting: Recorder,
    procfs: Procfs,
    /// UIDs of pods that were evicted, or were gone already, and may take their time to end, and the GPU for which they were.
    leaving: BTreeMap<String, GpuUuid>,
    pub(super) done: Actions,
}

impl Hands {
    pub(super) fn new(client: kube::Client, reporter: Reporter, procfs: Procfs) -> Self {
        let lasting = Recorder::new(client.clone(), reporter.clone());
        Self { client, reporter, lasting, procfs, leaving: BTreeMap::new(), done: Actions::default() }
    }

    /// Carries out verdicts upon figures that were read from `begun` on, and returns what there is to tell of each.
    ///
    /// What is killed is killed first: the figures get older with each call to the API server.
    pub(super) async fn carry_out(&mut self, due: &[Verdict], begun: Ticks) -> Vec<Option<Outcome>> {
        let mut outcomes: Vec<Option<Outcome>> = Vec::with_capacity(due.len());
        for verdict in due {
            outcomes.push(match verdict.action {
                Action::Observe => {
                    self.done.observed += 1;
                    Some(Outcome::Observed)
                }
                Action::Kill(victim) => self.kill(&verdict.pod, victim, begun),
                Action::Evict => None,
            });
        }
        // Where sets of claims overlap, several verdicts may be about one pod.
        let (hands, mut pods) = (&*self, BTreeSet::new());
        let to_be_evicted = due.iter().enumerate().filter(|(_, verdict)| {
            verdict.action == Action::Evict
                && !hands.leaving.contains_key(&verdict.pod.uid)
                && pods.insert(verdict.pod.uid.as_str())
        });
        let evictions = to_be_evicted.map(async |(at, verdict)| (at, hands.try_to_evict(&verdict.pod).await));
        let evictions: Vec<_> = evictions.collect();
        for (at, evicted) in join_all(evictions).await {
            outcomes[at] = self.evicted(&due[at], evicted);
        }
        outcomes
    }

    /// Forgets evicted pods that have no process any more, where the GPU in question could be read.
    pub(super) fn forget_all_but(&mut self, seen: &BTreeSet<&str>, unread: &BTreeSet<GpuUuid>) {
        self.leaving.retain(|uid, gpu| seen.contains(uid.as_str()) || unread.contains(gpu));
    }

    fn kill(&mut self, pod: &Pod, victim: Victim, begun: Ticks) -> Option<Outcome> {
        let (pid, pod, spared) = match kill(&self.procfs, &victim, pod, begun) {
            Ok(()) => {
                self.done.killed += 1;
                return Some(Outcome::Killed(victim));
            }
            Err(spared) => (victim.pid.0, named(pod), spared),
        };
        match &spared {
            Spared::Gone | Spared::Another => {
                tracing::info!(pid, pod, "the process to be killed has ended already");
                return None;
            }
            Spared::Refused(_) => self.done.refused += 1,
            Spared::Forbidden | Spared::NotInPod | Spared::ForeignNumbers => self.done.failed += 1,
        }
        tracing::warn!(pid, pod, error = crate::report(&spared), "a process over its share is not killed");
        None
    }

    fn evicted(&mut self, verdict: &Verdict, evicted: Evicted) -> Option<Outcome> {
        match evicted {
            Evicted::Yes => {
                self.done.evicted += 1;
                self.leaving.insert(verdict.pod.uid.clone(), verdict.key.gpu.clone());
                Some(Outcome::Evicted)
            }
            Evicted::Gone => {
                self.leaving.insert(verdict.pod.uid.clone(), verdict.key.gpu.clone());
                tracing::info!(pod = named(&verdict.pod), "the pod to be evicted is gone already");
                None
            }
            Evicted::Refused(reason) => {
                self.done.refused += 1;
                Some(Outcome::NotEvicted(reason))
            }
            Evicted::Failed(reason) => {
                self.done.failed += 1;
                Some(Outcome::NotEvicted(reason))
            }
        }
    }

    async fn try_to_evict(&self, pod: &Pod) -> Evicted {
        // Not `Api::evict`: kube 5.0 writes its options as `delete_options`, which the API server doesn't know, so that
        // the precondition would be lost and a new pod of that name evicted.
        let eviction = Eviction {
            delete_options: Some(DeleteOptions {
                preconditions: Some(Preconditions { uid: Some(pod.uid.clone()), resource_version: None }),
                ..DeleteOptions::default()
            }),
            metadata: ObjectMeta {
                namespace: Some(pod.namespace.clone()),
                name: Some(pod.name.clone()),
                ..ObjectMeta::default()
            },
        };
        let pods = Api::<core::Pod>::namespaced(self.client.clone(), &pod.namespace);
        let params = PostParams::default();
        let call = pods.create_subresource::<_, serde_json::Value>("eviction", &pod.name, &params, &eviction);
        match tokio::time::timeout(ONE_CALL, call).await {
            Ok(Ok(_)) => Evicted::Yes,
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Evicted::Gone,
            Ok(Err(kube::Error::Api(status))) if status.code < 500 => Evicted::Refused(refusal(&status)),
            Ok(Err(kube::Error::Api(status))) => Evicted::Failed(refusal(&status)),
            Ok(Err(error)) => Evicted::Failed(crate::report(&error)),
            Err(_) => Evicted::Failed(format!("the API server didn't answer within {} s", ONE_CALL.as_secs())),
        }
    }

    /// Tells what came of verdicts, of all at a time.
    pub(super) async fn tell_all(&self, due: &[Verdict], outcomes: &[Option<Outcome>]) {
        let told = due.iter().zip(outcomes).filter_map(|(verdict, outcome)| Some((verdict, outcome.as_ref()?)));
        join_all(told.map(|(verdict, outcome)| self.tell(verdict, outcome))).await;
    }

    /// In the log and in an event on the pod. An event that can't be written is only logged.
    async fn tell(&self, verdict: &Verdict, outcome: &Outcome) {
        let (reason, action) = match outcome {
            Outcome::Observed => ("ShareMemoryExceeded", "Observe"),
            Outcome::NotEvicted(_) => ("ShareMemoryExceeded", "Evict"),
            Outcome::Evicted => ("ShareMemoryEvicted", "Evict"),
            Outcome::Killed(_) => ("ShareMemoryKilled", "Kill"),
        };
        let note = note(verdict, outcome);
        tracing::warn!(pod = named(&verdict.pod), reason, "{note}");
        let event = Event {
            type_: EventType::Warning,
            reason: reason.to_owned(),
            note: Some(note),
            action: action.to_owned(),
            secondary: verdict.key.claims.first().map(|claim| ObjectReference {
                api_version: Some("resource.k8s.io/v1".to_owned()),
                kind: Some("ResourceClaim".to_owned()),
                namespace: Some(claim.namespace().to_owned()),
                name: Some(claim.name().to_owned()),
                uid: Some(claim.uid().to_string()),
                ..ObjectReference::default()
            }),
        };
        let pod = &verdict.pod;
        let regarding = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(pod.namespace.clone()),
            name: Some(pod.name.clone()),
            uid: Some(pod.uid.clone()),
            ..ObjectReference::default()
        };
        // A recorder counts what it has written within the last six minutes, and keeps the figures of the first. Each
        // eviction and each kill has figures of its own; what comes later than that is a new event in any case.
        let fresh = Recorder::new(self.client.clone(), self.reporter.clone());
        let goes_on = matches!(outcome, Outcome::Observed | Outcome::NotEvicted(_));
        let recorder = if goes_on { &self.lasting } else { &fresh };
        let error = match tokio::time::timeout(ONE_CALL, recorder.publish(&event, &regarding)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => crate::report(&error),
            Err(_) => "the API server didn't answer in time".to_owned(),
        };
        tracing::warn!(reason, pod = named(pod), error, "an event on a pod can't be written");
    }
}

/// What the API server says, with the budget that stands against it.
fn refusal(status: &Status) -> String {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let causes: Vec<&str> = causes.map(|cause| cause.message.as_str()).filter(|text| !text.is_empty()).collect();
    let message = status.message.trim_end_matches('.');
    if causes.is_empty() { message.to_owned() } else { format!("{message} ({})", causes.join("; ")) }
}

fn named(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

#[cfg(test)]
#[path = "act_tests.rs"]
mod tests;
