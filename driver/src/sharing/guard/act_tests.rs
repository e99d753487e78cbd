//! What reaches the API server and the kernel.
use serde_json::json;

use super::*;
use crate::sharing::guard::{
    testing::{Api, FakeProc, Sleeper, gib, key},
    types::Pid,
};

fn hands(api: &Api, proc: &FakeProc) -> Hands {
    let reporter = Reporter { controller: "gpu.example.com".into(), instance: Some("node-1".into()) };
    Hands::new(api.client(), reporter, proc.procfs())
}

/// Carries one verdict out and tells of it, as a tick does.
async fn carry_out(hands: &mut Hands, action: Action, begun: Ticks) {
    let due = [verdict(action)];
    let outcomes = hands.carry_out(&due, begun).await;
    hands.tell_all(&due, &outcomes).await;
}

fn verdict(action: Action) -> Verdict {
    Verdict {
        key: key(0, &["a"]),
        used: gib(12),
        limit: gib(8),
        over_for: Duration::from_secs(30),
        pod: Pod { namespace: "team".into(), name: "pod-p".into(), uid: "p".into() },
        action,
    }
}

#[tokio::test]
async fn an_excess_is_told_on_the_pod_with_its_claim() {
    let (api, proc) = (Api::default(), FakeProc::new());
    let mut hands = hands(&api, &proc);
    carry_out(&mut hands, Action::Observe, Ticks::now()).await;
    assert_eq!(api.requests(), ["POST /apis/events.k8s.io/v1/namespaces/team/events"]);
    let event = &api.sent("events")[0];
    assert_eq!((&event["reason"], &event["type"]), (&json!("ShareMemoryExceeded"), &json!("Warning")));
    assert_eq!(
        event["regarding"],
        json!({"apiVersion": "v1", "kind": "Pod", "namespace": "team", "name": "pod-p", "uid": "p"})
    );
    assert_eq!((&event["related"]["kind"], &event["related"]["uid"]), (&json!("ResourceClaim"), &json!("uid-a")));
    assert_eq!(
        (&event["reportingController"], &event["reportingInstance"]),
        (&json!("gpu.example.com"), &json!("node-1"))
    );
}

#[tokio::test]
async fn a_pod_is_evicted_by_its_uid_and_only_once_while_it_ends() {
    let (api, proc) = (Api::default(), FakeProc::new());
    let mut hands = hands(&api, &proc);
    carry_out(&mut hands, Action::Evict, Ticks::now()).await;
    carry_out(&mut hands, Action::Evict, Ticks::now()).await;
    assert_eq!(
        api.requests(),
        ["POST /api/v1/namespaces/team/pods/pod-p/eviction", "POST /apis/events.k8s.io/v1/namespaces/team/events"]
    );
    let sent = &api.sent("eviction")[0];
    assert_eq!(sent["deleteOptions"]["preconditions"], json!({"uid": "p"}));
    assert_eq!(sent["metadata"], json!({"namespace": "team", "name": "pod-p"}));
    assert_eq!(api.sent("events")[0]["reason"], "ShareMemoryEvicted");
    let (nobody, unread) = (BTreeSet::new(), BTreeSet::from([key(0, &[]).gpu]));
    hands.forget_all_but(&nobody, &unread);
    carry_out(&mut hands, Action::Evict, Ticks::now()).await;
    assert_eq!(hands.done.evicted, 1, "its GPU couldn't be read");
    hands.forget_all_but(&nobody, &BTreeSet::new());
    carry_out(&mut hands, Action::Evict, Ticks::now()).await;
    assert_eq!(hands.done, Actions { evicted: 2, ..Actions::default() });
}

#[tokio::test]
async fn a_disruption_budget_that_forbids_the_eviction_is_named() {
    let (api, proc) = (Api::default(), FakeProc::new());
    let mut hands = hands(&api, &proc);
    api.fail_with(
        "eviction",
        json!({
            "kind": "Status", "status": "Failure", "code": 429, "reason": "TooManyRequests",
            "message": "Cannot evict pod as it would violate the pod's disruption budget.",
            "details": {"causes": [{"reason": "DisruptionBudget",
                "message": "The disruption budget web needs 1 healthy pods and has 1 currently"}]},
        }),
    );
    carry_out(&mut hands, Action::Evict, Ticks::now()).await;
    let event = &api.sent("events")[0];
    assert_eq!(event["reason"], "ShareMemoryExceeded");
    let note = event["note"].as_str().unwrap();
    assert!(note.contains("can't be evicted yet") && note.contains("The disruption budget web needs 1"), "{note}");
    // It may forbid for days.
    carry_out(&mut hands, Action::Evict, Ticks::now()).await;
    let again = &api.sent("events")[1];
    assert_eq!((&again["series"]["count"], &again["note"]), (&json!(2), &event["note"]));
    api.heal();
    carry_out(&mut hands, Action::Evict, Ticks::now()).await;
    assert_eq!(hands.done, Actions { evicted: 1, refused: 2, ..Actions::default() });
}

#[tokio::test]
async fn a_pod_that_is_gone_or_replaced_is_left_in_peace() {
    for code in [404, 409] {
        let (api, proc) = (Api::default(), FakeProc::new());
        let mut hands = hands(&api, &proc);
        api.fail("eviction", code, "no");
        carry_out(&mut hands, Action::Evict, Ticks::now()).await;
        carry_out(&mut hands, Action::Evict, Ticks::now()).await;
        assert!(api.sent("events").is_empty() && api.requests().len() == 1);
        assert_eq!(hands.done, Actions::default());
    }
}

#[tokio::test]
async fn an_api_server_that_is_broken_has_refused_nothing() {
    let (api, proc) = (Api::default(), FakeProc::new());
    let mut hands = hands(&api, &proc);
    api.fail("eviction", 500, "etcd is gone");
    carry_out(&mut hands, Action::Evict, Ticks::now()).await;
    assert_eq!(hands.done, Actions { failed: 1, ..Actions::default() });
    assert!(api.sent("events")[0]["note"].as_str().unwrap().contains("etcd is gone"));
}

#[tokio::test]
async fn all_kills_come_before_any_call_and_a_pod_of_several_verdicts_is_evicted_once() {
    let (api, proc) = (Api::default(), FakeProc::new());
    let mut hands = hands(&api, &proc);
    let mut child = Sleeper::start();
    proc.place(child.pid(), "p");
    let pid = Pid(child.pid());
    let victim = Victim { pid, start: proc.procfs().start(pid).unwrap(), used: gib(5) };
    let due = [verdict(Action::Evict), verdict(Action::Evict), verdict(Action::Observe), verdict(Action::Kill(victim))];
    // Polled no further than to where it waits for the API server.
    drop(futures::poll!(Box::pin(hands.carry_out(&due, Ticks(Ticks::now().0 + 1)))));
    assert!(child.was_killed());
    let outcomes = hands.carry_out(&due[..3], Ticks::now()).await;
    assert_eq!(outcomes, [Some(Outcome::Evicted), None, Some(Outcome::Observed)]);
}

#[tokio::test]
async fn every_kill_has_an_event_of_its_own_with_its_figures() {
    let (api, proc) = (Api::default(), FakeProc::new());
    let mut hands = hands(&api, &proc);
    for used in [5, 4] {
        let mut child = Sleeper::start();
        proc.place(child.pid(), "p");
        let pid = Pid(child.pid());
        let victim = Victim { pid, start: proc.procfs().start(pid).unwrap(), used: gib(used) };
        carry_out(&mut hands, Action::Kill(victim), Ticks(Ticks::now().0 + 1)).await;
        assert!(child.was_killed());
    }
    let events = api.sent("events");
    assert_eq!((events.len(), events[0]["reason"].as_str()), (2, Some("ShareMemoryKilled")));
    let note = events[1]["note"].as_str().unwrap();
    assert!(note.contains("which used 4.0 GiB") && note.contains("12.0 GiB") && note.contains("8.0 GiB"), "{note}");
    assert_eq!(hands.done.killed, 2);
}

#[tokio::test]
async fn a_process_that_has_ended_by_itself_is_nothing_to_tell_of() {
    let (api, proc, mut child) = (Api::default(), FakeProc::new(), Sleeper::start());
    proc.place(child.pid(), "p");
    let pid = Pid(child.pid());
    let victim = Victim { pid, start: proc.procfs().start(pid).unwrap(), used: gib(5) };
    child.end();
    let mut hands = hands(&api, &proc);
    carry_out(&mut hands, Action::Kill(victim), Ticks(Ticks::now().0 + 1)).await;
    assert!(api.requests().is_empty());
    assert_eq!(hands.done, Actions::default());
}

#[tokio::test]
async fn a_process_that_is_spared_is_not_told_to_be_killed() {
    let (api, proc, mut child) = (Api::default(), FakeProc::new(), Sleeper::start());
    proc.place(child.pid(), "somebody-else");
    let pid = Pid(child.pid());
    let victim = Victim { pid, start: proc.procfs().start(pid).unwrap(), used: gib(5) };
    let mut hands = hands(&api, &proc);
    carry_out(&mut hands, Action::Kill(victim), Ticks(Ticks::now().0 + 1)).await;
    assert!(child.is_alive() && api.requests().is_empty());
    assert_eq!(hands.done, Actions { failed: 1, ..Actions::default() });
}
