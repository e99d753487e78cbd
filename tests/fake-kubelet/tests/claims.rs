//! How pods' claims are prepared and unprepared.
use std::{sync::Arc, time::Duration};

use fake_kubelet::PodSpec;
use kubelet_api::{dra::v1, health::v1alpha1 as health};
use support::{Behaviour, Call, DRIVER, Node, Plugin, eventually, registered};

mod support;

fn pod(uid: &str, claims: &[&str]) -> PodSpec {
    PodSpec::simple("ns", uid, uid, claims)
}

fn prepare(uids: &[&str]) -> (&'static str, Call) {
    ("v1", Call::Prepare(uids.iter().map(|uid| (*uid).to_owned()).collect()))
}

fn unprepare(uids: &[&str]) -> (&'static str, Call) {
    ("v1", Call::Unprepare(uids.iter().map(|uid| (*uid).to_owned()).collect()))
}

#[tokio::test]
async fn a_pods_claims_are_prepared_in_one_call_and_their_cdi_names_reach_the_container() {
    let (node, plugin, kubelet) = registered().await;
    node.api.allocate("one", "uid-1", &["pod"], &["gpu"]);
    node.api.allocate("two", "uid-2", &["pod"], &["gpu"]);
    let running = kubelet.run_pod(pod("pod", &["one", "two"])).await.unwrap();
    assert_eq!(plugin.calls(), [prepare(&["uid-1", "uid-2"])]);
    assert_eq!(running.containers["main"], ["example.com/gpu=uid-1-gpu", "example.com/gpu=uid-2-gpu"]);
    kubelet.stop_pod("pod").await.unwrap();
    assert_eq!(plugin.calls()[1..], [unprepare(&["uid-1", "uid-2"])]);
}

#[tokio::test]
async fn a_shared_claim_is_prepared_by_the_first_pod_and_unprepared_by_the_last() {
    let (node, plugin, kubelet) = registered().await;
    node.api.allocate("shared", "uid-1", &["a", "b"], &["gpu"]);
    let first = kubelet.run_pod(pod("a", &["shared"])).await.unwrap();
    let second = kubelet.run_pod(pod("b", &["shared"])).await.unwrap();
    assert_eq!(first, second);
    kubelet.stop_pod("a").await.unwrap();
    assert_eq!(plugin.calls(), [prepare(&["uid-1"])]);
    kubelet.stop_pod("b").await.unwrap();
    assert_eq!(plugin.calls(), [prepare(&["uid-1"]), unprepare(&["uid-1"])]);
}

#[tokio::test]
async fn a_claim_must_exist_and_be_reserved_and_allocated() {
    let (node, plugin, kubelet) = registered().await;
    let error = kubelet.run_pod(pod("pod", &["none"])).await.unwrap_err();
    assert!(error.to_string().starts_with("fetch ResourceClaim none: "), "{error}");
    node.api.allocate("other", "uid-1", &["another"], &["gpu"]);
    let error = kubelet.run_pod(pod("pod", &["other"])).await.unwrap_err();
    assert_eq!(error.to_string(), "pod pod (pod) is not allowed to use ResourceClaim other (uid-1)");
    node.api.put("bare", "uid-2", &["pod"], &serde_json::Value::Null);
    let error = kubelet.run_pod(pod("pod", &["bare"])).await.unwrap_err();
    assert_eq!(error.to_string(), "ResourceClaim bare: not allocated");
    assert!(plugin.calls().is_empty());
}

#[tokio::test]
async fn a_claim_of_the_same_name_waits_until_the_old_one_is_unprepared() {
    let (node, _plugin, kubelet) = registered().await;
    node.api.allocate("claim", "uid-1", &["a"], &["gpu"]);
    kubelet.run_pod(pod("a", &["claim"])).await.unwrap();
    kubelet.force_delete("a");
    node.api.allocate("claim", "uid-2", &["b"], &["gpu"]);
    let error = kubelet.run_pod(pod("b", &["claim"])).await.unwrap_err();
    assert!(error.to_string().contains("different UID uid-1 still exists"), "{error}");
    assert!(kubelet.reconcile().await.is_empty());
    kubelet.run_pod(pod("b", &["claim"])).await.unwrap();
}

#[tokio::test]
async fn a_drivers_error_stops_the_pod_and_a_second_try_asks_again() {
    let (node, plugin, kubelet) = registered().await;
    node.api.allocate("claim", "uid-1", &["pod"], &["gpu"]);
    plugin.change(|behaviour| {
        behaviour.prepare = Arc::new(|claims| {
            let failed = v1::NodePrepareResourceResponse { devices: Vec::new(), error: "no such GPU".to_owned() };
            Ok(claims.into_iter().map(|claim| (claim.uid, failed.clone())).collect())
        });
    });
    let error = kubelet.run_pod(pod("pod", &["claim"])).await.unwrap_err();
    assert_eq!(
        error.event(),
        "Failed to prepare dynamic resources: prepare dynamic resources: \
         NodePrepareResources failed for ResourceClaim claim: no such GPU"
    );
    plugin.change(|behaviour| *behaviour = Behaviour::default());
    kubelet.run_pod(pod("pod", &["claim"])).await.unwrap();
    assert_eq!(plugin.calls(), [prepare(&["uid-1"]), prepare(&["uid-1"])]);
}

#[tokio::test]
async fn an_answer_must_cover_every_claim() {
    let (node, plugin, kubelet) = registered().await;
    node.api.allocate("claim", "uid-1", &["pod"], &["gpu"]);
    plugin.change(|behaviour| behaviour.prepare = Arc::new(|_| Ok(std::collections::BTreeMap::new())));
    let error = kubelet.run_pod(pod("pod", &["claim"])).await.unwrap_err();
    assert_eq!(error.to_string(), "NodePrepareResources skipped 1 ResourceClaims");
}

#[tokio::test]
async fn a_call_has_a_deadline() {
    let (node, plugin, kubelet) = registered().await;
    node.api.allocate("claim", "uid-1", &["pod"], &["gpu"]);
    plugin.change(|behaviour| behaviour.call_delay = Duration::from_secs(3));
    let error = kubelet.run_pod(pod("pod", &["claim"])).await.unwrap_err();
    // Both ends keep the deadline that the call carries, and either can be first.
    let ends = ["DeadlineExceeded", "Canceled"];
    assert!(ends.iter().any(|end| error.to_string().contains(end)), "{error}");
}

#[tokio::test]
async fn a_pod_whose_driver_is_gone_stays_to_be_unprepared() {
    let (node, plugin, kubelet) = registered().await;
    node.api.allocate("claim", "uid-1", &["pod"], &["gpu"]);
    kubelet.run_pod(pod("pod", &["claim"])).await.unwrap();
    plugin.unregister();
    eventually("forgotten", || kubelet.client(DRIVER).is_err()).await;
    let error = kubelet.stop_pod("pod").await.unwrap_err();
    assert_eq!(error.to_string(), "unprepare dynamic resources: DRA driver gpu.example.com is not registered");
    let plugin = node.plugin("gpu@reg.sock");
    kubelet.wait_registered(DRIVER).await.unwrap();
    assert!(kubelet.reconcile().await.is_empty());
    assert_eq!(plugin.calls(), [unprepare(&["uid-1"])]);
}

#[tokio::test]
async fn a_restarted_kubelet_prepares_again_for_a_new_sandbox_and_still_unprepares() {
    let (node, plugin, kubelet) = registered().await;
    node.api.allocate("claim", "uid-1", &["pod"], &["gpu"]);
    kubelet.run_pod(pod("pod", &["claim"])).await.unwrap();
    kubelet.run_pod(pod("pod", &["claim"])).await.unwrap();
    assert_eq!(plugin.calls(), [prepare(&["uid-1"])], "it knows");
    kubelet.restart().unwrap();
    kubelet.wait_registered(DRIVER).await.unwrap();
    kubelet.run_pod(pod("pod", &["claim"])).await.unwrap();
    assert_eq!(plugin.calls().len(), 2, "it has forgotten");
    kubelet.restart().unwrap();
    kubelet.wait_registered(DRIVER).await.unwrap();
    kubelet.stop_pod("pod").await.unwrap();
    assert_eq!(plugin.calls()[2..], [unprepare(&["uid-1"])]);
}

#[tokio::test]
async fn an_old_driver_is_called_by_the_old_contract() {
    let node = Node::new();
    let versions = vec!["v1beta1.DRAPlugin"];
    let plugin = Plugin::start(node.root(), "x@r.sock", "dra.sock", Behaviour { versions, ..Behaviour::default() });
    let kubelet = node.kubelet().start().unwrap();
    kubelet.wait_registered(DRIVER).await.unwrap();
    node.api.allocate("claim", "uid-1", &["pod"], &["gpu"]);
    let running = kubelet.run_pod(pod("pod", &["claim"])).await.unwrap();
    assert_eq!(running.containers["main"], ["example.com/gpu=uid-1-gpu"]);
    assert_eq!(plugin.calls(), [("v1beta1", Call::Prepare(vec!["uid-1".to_owned()]))]);
}

#[tokio::test]
async fn health_is_unknown_until_the_driver_reports_it() {
    let (_node, plugin, kubelet) = registered().await;
    let status = || kubelet.health(DRIVER, "pool", "gpu-0").status;
    assert_eq!(status(), health::HealthStatus::Unknown);
    eventually("watched", || plugin.watchers() > 0).await;
    plugin.report(vec![health::DeviceHealth {
        device: Some(health::DeviceIdentifier { pool_name: "pool".to_owned(), device_name: "gpu-0".to_owned() }),
        health: health::HealthStatus::Unhealthy.into(),
        ..health::DeviceHealth::default()
    }]);
    eventually("reported", || status() == health::HealthStatus::Unhealthy).await;
}
