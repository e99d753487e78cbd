//! Events: what users are told about their pods, and administrators about their node.
use std::{collections::BTreeMap, time::Duration};

use dra_plugin::{ClaimRef, PodRef};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio_util::sync::CancellationToken;

/// More than a node has to tell at a time; what is beyond is only in the log.
const MOST: usize = 256;
/// The API server refuses a longer note (events.k8s.io/v1).
pub(crate) const LONGEST_NOTE: usize = 1024;

/// How long one may take to be written before the connection is taken for dead: the next ones wait for it.
const ONE_CALL: Duration = Duration::from_secs(10);

/// One event.
pub struct Notice {
    subject: Subject,
    event: Event,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Subject {
    Node,
    Users { claim: ClaimRef, pods: Vec<PodRef> },
    Container { namespace: String, pod: PodRef, name: Option<String> },
}

#[cfg(test)]
impl Notice {
    /// What it is about.
    pub(crate) fn reason(&self) -> &str {
        &self.event.reason
    }
}

/// Takes events without ever waiting.
#[derive(Debug, Clone)]
pub struct Notices(mpsc::Sender<Notice>);

impl Notices {
    /// Notices and where they come out.
    pub fn new() -> (Self, mpsc::Receiver<Notice>) {
        let (sender, receiver) = mpsc::channel(MOST);
        (Self(sender), receiver)
    }

    /// Warns the users of a claim: on its pods, or on the claim where no pod is known.
    pub(crate) fn warn_users(&self, claim: &ClaimRef, pods: &[PodRef], reason: &str, note: String) {
        let subject = Subject::Users { claim: claim.clone(), pods: pods.to_vec() };
        self.send(subject, event(EventType::Warning, reason, "Prepare", note));
    }

    /// Warns the users of one container, which may be known by its pod's name and UID only.
    pub(crate) fn warn_container(
        &self,
        namespace: &str,
        (pod, uid): (&str, &str),
        name: Option<&str>,
        reason: &str,
        note: String,
    ) {
        let pod = PodRef { name: pod.to_owned(), uid: uid.to_owned() };
        let subject = Subject::Container { namespace: namespace.to_owned(), pod, name: name.map(ToOwned::to_owned) };
        self.send(subject, event(EventType::Warning, reason, "Start", note));
    }

    /// Warns the node's administrators.
    pub(crate) fn warn_node(&self, reason: &str, note: String) {
        self.send(Subject::Node, event(EventType::Warning, reason, "Offer", note));
    }

    /// Tells the node's administrators.
    pub(crate) fn tell_node(&self, reason: &str, note: String) {
        self.send(Subject::Node, event(EventType::Normal, reason, "Offer", note));
    }

    /// Tells the node's administrators what the sweep did, and on the claim whoever made it.
    pub(crate) fn tell_swept(&self, claim: Option<&ClaimRef>, reason: &str, note: String) {
        let told = |note| event(EventType::Normal, reason, "Sweep", note);
        if let Some(claim) = claim {
            self.send(Subject::Users { claim: claim.clone(), pods: Vec::new() }, told(note.clone()));
        }
        self.send(Subject::Node, told(note));
    }

    fn send(&self, subject: Subject, event: Event) {
        if let Err(error) = self.0.try_send(Notice { subject, event }) {
            let (Notice { event, .. }, full) = match error {
                TrySendError::Full(notice) => (notice, true),
                TrySendError::Closed(notice) => (notice, false),
            };
            let why = if full { "too many wait to be written" } else { "the driver ends" };
            tracing::warn!(reason = event.reason, "an event is dropped: {why}");
        }
    }
}

/// The beginning of a text, of so many bytes at most.
pub(crate) fn cut(mut text: String, longest: usize) -> String {
    text.truncate(text.floor_char_boundary(longest));
    text
}

fn event(type_: EventType, reason: &str, action: &str, note: String) -> Event {
    let note = Some(cut(note, LONGEST_NOTE));
    Event { type_, reason: reason.to_owned(), note, action: action.to_owned(), secondary: None }
}

/// Writes each notice until `stop`. An event that can't be written is only logged: the log has said the same.
pub(crate) async fn write(
    client: kube::Client,
    driver: String,
    node: String,
    mut notices: mpsc::Receiver<Notice>,
    stop: CancellationToken,
) {
    let mut recorders = Recorders {
        client,
        reporter: Reporter { controller: driver, instance: Some(node.clone()) },
        by_reason: BTreeMap::new(),
    };
    while let Some(Some(Notice { subject, event })) = stop.run_until_cancelled(notices.recv()).await {
        let recorder = recorders.of(&event);
        for regarding in regarding(&subject, &node) {
            let writing = tokio::time::timeout(ONE_CALL, recorder.publish(&event, &regarding));
            let error = match stop.run_until_cancelled(writing).await {
                Some(Ok(Ok(()))) => continue,
                Some(Ok(Err(error))) => crate::report(&error),
                Some(Err(_)) => format!("no answer from the API server within {} s", ONE_CALL.as_secs()),
                None => return,
            };
            tracing::warn!(reason = event.reason, error, "an event can't be written");
        }
    }
}

/// A recorder counts an event that it knows and keeps its first note, whatever the new one says. So each note has its own:
/// what is the same is counted, and what is new is told.
struct Recorders {
    client: kube::Client,
    reporter: Reporter,
    /// With the note that it is for.
    by_reason: BTreeMap<String, (Option<String>, Recorder)>,
}

impl Recorders {
    fn of(&mut self, event: &Event) -> Recorder {
        if let Some((note, recorder)) = self.by_reason.get(&event.reason)
            && *note == event.note
        {
            return recorder.clone();
        }
        let fresh = Recorder::new(self.client.clone(), self.reporter.clone());
        self.by_reason.insert(event.reason.clone(), (event.note.clone(), fresh.clone()));
        fresh
    }
}

fn regarding(subject: &Subject, node: &str) -> Vec<ObjectReference> {
    let object = |api_version: &str, kind: &str, namespace: Option<&str>, name: &str, uid: &str| ObjectReference {
        api_version: Some(api_version.to_owned()),
        kind: Some(kind.to_owned()),
        namespace: namespace.map(ToOwned::to_owned),
        name: Some(name.to_owned()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    };
    match subject {
        // As the kubelet refers to its node: kubectl finds events by the name in place of the UID.
        Subject::Node => vec![object("v1", "Node", None, node, node)],
        Subject::Container { namespace, pod, name } => {
            let pod = object("v1", "Pod", Some(namespace), &pod.name, &pod.uid);
            // As the kubelet refers to a container.
            vec![ObjectReference { field_path: name.as_ref().map(|name| format!("spec.containers{{{name}}}")), ..pod }]
        }
        Subject::Users { claim, pods } if pods.is_empty() => {
            let (namespace, name, uid) = (claim.namespace(), claim.name(), claim.uid().as_str());
            vec![object("resource.k8s.io/v1", "ResourceClaim", Some(namespace), name, uid)]
        }
        Subject::Users { claim, pods } => {
            pods.iter().map(|pod| object("v1", "Pod", Some(claim.namespace()), &pod.name, &pod.uid)).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_hear_of_it_on_their_pods_or_else_on_the_claim() {
        let claim = ClaimRef::new("ns", "claim", "u1").unwrap();
        let pods = vec![PodRef { name: "pod".into(), uid: "p1".into() }];
        let told = |pods| {
            let all = regarding(&Subject::Users { claim: claim.clone(), pods }, "node");
            all.into_iter().map(|object| (object.kind.unwrap(), object.name.unwrap())).collect::<Vec<_>>()
        };
        assert_eq!(told(pods), [("Pod".to_owned(), "pod".to_owned())]);
        assert_eq!(told(vec![]), [("ResourceClaim".to_owned(), "claim".to_owned())]);
    }

    #[test]
    fn a_container_is_told_of_on_its_pod_by_its_name_there() {
        let pod = PodRef { name: "pod".into(), uid: "p1".into() };
        let subject = Subject::Container { namespace: "ns".into(), pod, name: Some("main".into()) };
        let told = regarding(&subject, "node").remove(0);
        assert_eq!(
            (told.kind.unwrap(), told.field_path.unwrap()),
            ("Pod".to_owned(), "spec.containers{main}".to_owned())
        );
    }

    #[test]
    fn a_note_is_one_that_the_api_server_takes() {
        assert!(event(EventType::Warning, "A", "B", "ü".repeat(2000)).note.unwrap().len() <= LONGEST_NOTE);
    }
}
