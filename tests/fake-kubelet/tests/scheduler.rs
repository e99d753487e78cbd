//! Scheduling against an API server: claims that share devices, extended resources, and all claims of a pod or none.
use std::sync::Arc;

use fake_kubelet::{
    ClaimUse, Kubelet,
    allocator::{Features, Scheduler},
};
use k8s_openapi::api::{core::v1::Node, resource::v1::ResourceClaim};
use kube::{Api, api::PostParams};
use serde_json::{Value, json};
use support::{Behaviour, Cluster, DRIVER, NODE, Plugin, create, prepared};

mod support;

#[tokio::test]
async fn a_pods_extended_resources_become_a_claim_of_its_own() {
    let cluster = Cluster::with_gpus(3).await;
    let pod = cluster.pod_with_gpus("train", &[2, 1]).await;
    let spec = cluster.scheduler.schedule(&pod).await.unwrap();
    let [claim] = cluster.claims().try_into().unwrap();
    let name = claim["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("train-extended-resources-"), "{name}");
    assert_eq!(claim["metadata"]["annotations"]["resource.kubernetes.io/extended-resource-claim"], "true");
    assert_eq!(claim["metadata"]["ownerReferences"][0]["uid"], json!(pod.metadata.uid));
    assert_eq!(claim["status"]["reservedFor"][0]["uid"], json!(pod.metadata.uid));
    let devices = claim["status"]["allocation"]["devices"]["results"].as_array().unwrap();
    let devices: Vec<_> = devices.iter().map(|result| (result["request"].clone(), result["device"].clone())).collect();
    let of = |request: &str, device: &str| (json!(request), json!(device));
    let (first, second) = ("container-0-request-0", "container-1-request-0");
    assert_eq!(devices, [of(first, "gpu-0"), of(first, "gpu-1"), of(second, "gpu-2")]);
    let status = &cluster.api.peek("pods", "default", "train").unwrap()["status"]["extendedResourceClaimStatus"];
    assert_eq!(status["resourceClaimName"], name);
    let mapping = |container, request| json!({"containerName": container, "resourceName": "nvidia.com/gpu", "requestName": request});
    assert_eq!(status["requestMappings"], json!([mapping("c0", first), mapping("c1", second)]));
    assert_eq!(spec.claims[0].claim, name);
    let uses = |request: &str| [ClaimUse { claim: spec.claims[0].name.clone(), request: Some(request.to_owned()) }];
    assert_eq!((&spec.containers[0].uses[..], &spec.containers[1].uses[..]), (&uses(first)[..], &uses(second)[..]));
    assert_eq!(cluster.scheduler.schedule(&pod).await.unwrap(), spec);
    cluster.scheduler.release(&pod).await.unwrap();
    assert_eq!(cluster.claims(), [Value::Null; 0]);
}

#[tokio::test]
async fn the_kubelet_prepares_that_claim_and_gives_each_container_its_devices() {
    let cluster = Cluster::with_gpus(2).await;
    let dir = tempfile::tempdir().unwrap();
    let requests = ["container-0-request-0", "container-1-request-0"];
    let prepare = Arc::new(move |claims: Vec<kubelet_api::dra::v1::Claim>| {
        Ok(claims.into_iter().map(|claim| (claim.uid.clone(), prepared(&claim, &requests))).collect())
    });
    let behaviour = Behaviour { prepare, ..Behaviour::default() };
    let _plugin = Plugin::start(dir.path(), "gpu@reg.sock", "dra.sock", behaviour);
    // Before the kubelet starts, which wipes the node's slices.
    let pod = cluster.pod_with_gpus("pod", &[1, 1]).await;
    let spec = cluster.scheduler.schedule(&pod).await.unwrap();
    let kubelet = Kubelet::builder(dir.path(), NODE, cluster.client.clone()).start().unwrap();
    kubelet.wait_registered(DRIVER).await.unwrap();
    let running = kubelet.run_pod(spec).await.unwrap();
    let uid = cluster.claims()[0]["metadata"]["uid"].as_str().unwrap().to_owned();
    let cdi = |request| vec![format!("example.com/gpu={uid}-{request}")];
    assert_eq!(running.containers["c0"], cdi(requests[0]));
    assert_eq!(running.containers["c1"], cdi(requests[1]));
}

#[tokio::test]
async fn no_claim_is_made_for_extended_resources_that_are_not_there() {
    let cluster = Cluster::with_gpus(1).await;
    let pod = cluster.pod_with_gpus("pod", &[2]).await;
    let error = cluster.scheduler.schedule(&pod).await.unwrap_err().to_string();
    assert_eq!(error, "claim <extended-resources>: cannot allocate all claims");
    assert_eq!(cluster.claims(), [Value::Null; 0]);
    let unknown = json!({"containers": [{"name": "c", "resources": {"limits": {"amd.com/gpu": "1"}}}]});
    let pod = cluster.pod("unknown", unknown).await;
    assert_eq!(cluster.scheduler.schedule(&pod).await.unwrap_err().to_string(), "Insufficient amd.com/gpu");
}

#[tokio::test]
async fn what_a_device_plugin_has_stays_its_own() {
    let cluster = Cluster::with_gpus(1).await;
    let node = json!({"metadata": {"name": NODE}, "status": {"allocatable": {"nvidia.com/gpu": "8"}}});
    create::<Node>(&cluster.client, node.clone()).await;
    let status = kube::api::Patch::Merge(json!({"status": node["status"]}));
    let nodes = Api::<Node>::all(cluster.client.clone());
    nodes.patch_status(NODE, &kube::api::PatchParams::default(), &status).await.unwrap();
    let pod = cluster.pod_with_gpus("pod", &[1]).await;
    assert_eq!(cluster.scheduler.schedule(&pod).await.unwrap().claims, []);
}

#[tokio::test]
async fn with_the_feature_off_a_class_stands_for_no_resource() {
    let cluster = Cluster::with_gpus(1).await;
    let features = Features { extended_resources: false, ..Features::default() };
    let scheduler = Scheduler::new(cluster.client.clone(), NODE).with_features(features);
    let pod = cluster.pod_with_gpus("pod", &[1]).await;
    assert_eq!(scheduler.schedule(&pod).await.unwrap_err().to_string(), "Insufficient nvidia.com/gpu");
}

#[tokio::test]
async fn a_pod_gets_all_of_its_claims_or_none() {
    let cluster = Cluster::with_gpus(1).await;
    let api = Api::<ResourceClaim>::namespaced(cluster.client.clone(), "default");
    for name in ["first", "second"] {
        let request = json!({"name": "r", "exactly": {"deviceClassName": "gpu"}});
        let claim = json!({"metadata": {"name": name}, "spec": {"devices": {"requests": [request]}}});
        api.create(&PostParams::default(), &serde_json::from_value(claim).unwrap()).await.unwrap();
    }
    let claims = json!([{"name": "a", "resourceClaimName": "first"}, {"name": "b", "resourceClaimName": "second"}]);
    let pod = cluster.pod("pod", json!({"containers": [{"name": "c"}], "resourceClaims": claims})).await;
    let error = cluster.scheduler.schedule(&pod).await.unwrap_err().to_string();
    assert_eq!(error, "claim second: cannot allocate all claims: gpu-0 is in use");
    assert!(cluster.claims().iter().all(|claim| claim["status"]["allocation"].is_null()));
}
