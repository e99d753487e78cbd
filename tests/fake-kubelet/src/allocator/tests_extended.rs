//! How extended resources become requests, and which class stands for one.
use k8s_openapi::api::resource::v1::DeviceClass;
use serde_json::{Value, json};

use super::extended::{class, count_of, requests, resources};

fn container(name: &str, gpus: u32) -> Value {
    json!({"name": name, "resources": {"limits": {"cpu": "1", "nvidia.com/gpu": gpus.to_string()}}})
}

/// `name:count` of each request, and `container=request` of each mapping.
fn of(init: &[Value], containers: &[Value]) -> (Vec<String>, Vec<String>) {
    let spec = json!({"initContainers": init, "containers": containers});
    let classes = [("nvidia.com/gpu".to_owned(), "gpu".to_owned())].into();
    let found = requests(&serde_json::from_value(spec).unwrap(), &classes).unwrap();
    let requests = found.requests.iter().map(|one| format!("{}:{}", one.name, count_of(one)));
    let mappings = found.mappings.iter().map(|one| format!("{}={}", one.container_name, one.request_name));
    (requests.collect(), mappings.collect())
}

fn texts(requests: &[&str], mappings: &[&str]) -> (Vec<String>, Vec<String>) {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    (owned(requests), owned(mappings))
}

#[test]
fn each_container_has_a_request_of_its_own() {
    let containers = [container("a", 2), json!({"name": "none"}), container("b", 1), container("zero", 0)];
    let expected = texts(
        &["container-0-request-1:2", "container-2-request-1:1"],
        &["a=container-0-request-1", "b=container-2-request-1"],
    );
    assert_eq!(of(&[], &containers), expected);
}

#[test]
fn an_init_container_uses_what_later_containers_have() {
    let expected = texts(
        &["container-0-request-1:1", "container-1-request-1:2"],
        &["main=container-1-request-1", "init=container-1-request-1", "init=container-0-request-1"],
    );
    assert_eq!(of(&[container("init", 3)], &[container("main", 2)]), expected);
}

#[test]
fn init_containers_share_the_largest_of_their_requests() {
    let expected = texts(&["container-1-request-1:3"], &["a=container-1-request-1", "b=container-1-request-1"]);
    assert_eq!(of(&[container("a", 2), container("b", 3)], &[json!({"name": "main"})]), expected);
}

#[test]
fn a_sidecar_keeps_its_devices() {
    let mut sidecar = container("sidecar", 1);
    sidecar["restartPolicy"] = json!("Always");
    let expected = texts(
        &["container-0-request-1:1", "container-1-request-1:1"],
        &["sidecar=container-0-request-1", "main=container-1-request-1"],
    );
    assert_eq!(of(&[sidecar], &[container("main", 1)]), expected);
}

#[test]
fn the_newest_class_that_names_a_resource_stands_for_it() {
    let class_of = |name: &str, time: &str| -> DeviceClass {
        let metadata = json!({"name": name, "creationTimestamp": time});
        serde_json::from_value(json!({"metadata": metadata, "spec": {"extendedResourceName": "nvidia.com/gpu"}}))
            .unwrap()
    };
    let classes = [
        class_of("old", "2026-01-01T00:00:00Z"),
        class_of("b", "2026-02-01T00:00:00Z"),
        class_of("a", "2026-02-01T00:00:00Z"),
    ];
    let found = |resource| class(resource, &classes).and_then(|class| class.metadata.name.as_deref());
    assert_eq!(found("nvidia.com/gpu"), Some("a"));
    assert_eq!(found("deviceclass.resource.kubernetes.io/old"), Some("old"));
    assert_eq!(found("amd.com/gpu"), None);
}

#[test]
fn processors_and_huge_pages_are_not_extended_resources() {
    let limits = json!({"cpu": "1", "hugepages-2Mi": "2Mi", "nvidia.com/gpu": "1", "amd.com/gpu": "0",
        "attachable-volumes.kubernetes.io/x": "1", "deviceclass.resource.kubernetes.io/gpu": "1"});
    let spec = json!({"containers": [{"name": "main", "resources": {"limits": limits}}]});
    let found = resources(&serde_json::from_value(spec).unwrap()).unwrap();
    assert_eq!(found, ["deviceclass.resource.kubernetes.io/gpu", "nvidia.com/gpu"]);
}
