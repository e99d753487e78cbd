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
    hands.carry_out(&verdict(Action::Observe), Ticks::now()).await;
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
    hands.carry_out(&verdict(Action::Evict), Ticks::now()).await;
    hands.carry_out(&verdict(Action::Evict), Ticks::now()).await;
    assert_eq!(
        api.requests(),
        ["POST /api/v1/namespaces/team/pods/pod-p/eviction", "POST /apis/events.k8s.io/v1/namespaces/team/events"]
    );
    let sent = &api.sent("eviction")[0];
    assert_eq!(sent["deleteOptions"]["preconditions"], json!({"uid": "p"}));
    assert_eq!(sent["metadata"], json!({"namespace": "team", "name": "pod-p"}));
    assert_eq!(api.sent("events")[0]["reason"], "ShareMemoryEvicted");
    hands.forget_all_but(&BTreeSet::new());
    hands.carry_out(&verdict(Action::Evict), Ticks::now()).await;
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
    hands.carry_out(&verdict(Action::Evict), Ticks::now()).await;
    let event = &api.sent("events")[0];
    assert_eq!(event["reason"], "ShareMemoryExceeded");
    let note = event["note"].as_str().unwrap();
    assert!(note.contains("can't be evicted yet") && note.contains("The disruption budget web needs 1"), "{note}");
    // It may forbid for days.
    hands.carry_out(&verdict(Action::Evict), Ticks::now()).await;
    let again = &api.sent("events")[1];
    assert_eq!((&again["series"]["count"], &again["note"]), (&json!(2), &event["note"]));
    api.heal();
    hands.carry_out(&verdict(Action::Evict), Ticks::now()).await;
    assert_eq!(hands.done, Actions { evicted: 1, refused: 2, ..Actions::default() });
}

#[tokio::test]
async fn a_pod_that_is_gone_or_replaced_is_left_in_peace() {
    for code in [404, 409] {
        let (api, proc) = (Api::default(), FakeProc::new());
        let mut hands = hands(&api, &proc);
        api.fail("eviction", code, "no");
        hands.carry_out(&verdict(Action::Evict), Ticks::now()).await;
        assert!(api.sent("events").is_empty());
        assert_eq!(hands.done, Actions::default());
    }
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
        hands.carry_out(&verdict(Action::Kill(victim)), Ticks(Ticks::now().0 + 1)).await;
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
    hands.carry_out(&verdict(Action::Kill(victim)), Ticks(Ticks::now().0 + 1)).await;
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
    hands.carry_out(&verdict(Action::Kill(victim)), Ticks(Ticks::now().0 + 1)).await;
    assert!(child.is_alive() && api.requests().is_empty());
    assert_eq!(hands.done, Actions { refused: 1, ..Actions::default() });
}
