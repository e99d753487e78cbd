//! The stand-in through the real client library.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
use std::time::Duration;

use fake_apiserver::{Fault, Server, Trouble};
use futures::StreamExt;
use k8s_openapi::api::{core::v1::Pod, resource::v1::ResourceSlice};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
    runtime::watcher,
};
use serde_json::{Value, json};

async fn start() -> (Server, Client) {
    let server = Server::builder()
        .drop_field("resourceslices", "spec.devices[].allowMultipleAllocations")
        .start()
        .await
        .unwrap();
    let mut config = Config::new(server.url().parse().unwrap());
    config.default_retry = false;
    (server, Client::try_from(config).unwrap())
}

fn slice(node: &str) -> ResourceSlice {
    serde_json::from_value(json!({
        "metadata": {"generateName": "00000-gpu.example.com-"},
        "spec": {"driver": "gpu.example.com", "nodeName": node, "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": "gpu-0", "allowMultipleAllocations": true}]},
    }))
    .unwrap()
}

fn pod(name: &str) -> Pod {
    let spec = json!({"containers": [{"name": "c", "image": "i"}]});
    serde_json::from_value(json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": spec})).unwrap()
}

#[tokio::test]
async fn an_update_with_an_old_version_conflicts_and_the_same_again_changes_nothing() {
    let (server, client) = start().await;
    let api: Api<ResourceSlice> = Api::all(client);
    let made = api.create(&PostParams::default(), &slice("n1")).await.unwrap();
    let name = made.metadata.name.clone().unwrap();
    assert!(
        name.starts_with("00000-gpu.example.com-")
            && made.spec.devices.as_ref().unwrap()[0].allow_multiple_allocations.is_none()
    );
    let same = api.replace(&name, &PostParams::default(), &made).await.unwrap();
    assert_eq!(same.metadata.resource_version, made.metadata.resource_version);
    let mut changed = made.clone();
    changed.spec.pool.generation = 2;
    let changed = api.replace(&name, &PostParams::default(), &changed).await.unwrap();
    assert_eq!((changed.spec.pool.generation, changed.metadata.generation), (2, Some(2)));
    let stale = api.replace(&name, &PostParams::default(), &made).await.unwrap_err();
    assert!(matches!(stale, kube::Error::Api(status) if status.code == 409 && status.reason == "Conflict"));
    assert_eq!(server.writes(), 4);
}

#[tokio::test]
async fn status_is_written_through_its_subresource_only() {
    let (_server, client) = start().await;
    let api: Api<Pod> = Api::namespaced(client, "default");
    let mut made = pod("a");
    made.status = Some(serde_json::from_value(json!({"phase": "Running"})).unwrap());
    assert!(api.create(&PostParams::default(), &made).await.unwrap().status.is_none());
    let patch = json!({"status": {"phase": "Running"}, "metadata": {"labels": {"app": "other"}}});
    let patched = api.patch_status("a", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    assert_eq!(patched.status.unwrap().phase.as_deref(), Some("Running"));
    assert_eq!(patched.metadata.labels.unwrap()["app"], "a");
}

#[tokio::test]
async fn apply_makes_an_object_and_then_changes_it() {
    let (_server, client) = start().await;
    let api: Api<Pod> = Api::namespaced(client, "default");
    let wanted = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
        "spec": {"containers": [{"name": "c", "image": "one"}]}});
    let parameters = PatchParams::apply("test");
    api.patch("a", &parameters, &Patch::Apply(&wanted)).await.unwrap();
    let mut wanted = wanted;
    wanted["spec"]["containers"][0]["image"] = json!("two");
    let applied = api.patch("a", &parameters, &Patch::Apply(&wanted)).await.unwrap();
    let containers = applied.spec.unwrap().containers;
    assert_eq!((containers.len(), containers[0].image.as_deref()), (1, Some("two")));
}

#[tokio::test]
async fn selectors_paging_and_preconditions_choose() {
    let (_server, client) = start().await;
    let slices: Api<ResourceSlice> = Api::all(client.clone());
    for node in ["n1", "n1", "n2"] {
        slices.create(&PostParams::default(), &slice(node)).await.unwrap();
    }
    let on_one = ListParams::default().fields("spec.nodeName=n1,spec.driver=gpu.example.com");
    let page = slices.list(&on_one.clone().limit(1)).await.unwrap();
    assert_eq!((page.items.len(), page.metadata.remaining_item_count), (1, Some(1)));
    let token = page.metadata.continue_.unwrap();
    // Of the pages of one list all have the version of the first, whatever is written in between.
    slices.create(&PostParams::default(), &slice("n3")).await.unwrap();
    let next = slices.list(&on_one.clone().limit(1).continue_token(&token)).await.unwrap();
    assert_eq!((next.items.len(), next.metadata.resource_version), (1, page.metadata.resource_version));
    assert!(next.items[0].metadata.name > page.items[0].metadata.name && next.metadata.continue_.is_none());
    let preconditions = Some(Preconditions { uid: Some("another".into()), resource_version: None });
    let name = page.items[0].metadata.name.clone().unwrap();
    let refused = slices.delete(&name, &DeleteParams { preconditions, ..DeleteParams::default() }).await.unwrap_err();
    assert!(matches!(refused, kube::Error::Api(status) if status.code == 409));
    slices.delete_collection(&DeleteParams::default(), &on_one).await.unwrap();
    assert_eq!(slices.list(&ListParams::default()).await.unwrap().items.len(), 2);
}

#[tokio::test]
async fn a_watch_lists_follows_and_starts_over_when_it_is_too_old() {
    let (server, client) = start().await;
    let api: Api<Pod> = Api::namespaced(client, "default");
    api.create(&PostParams::default(), &pod("a")).await.unwrap();
    let mut events = watcher(api.clone(), watcher::Config::default().labels("app!=b")).boxed();
    let mut next = async || tokio::time::timeout(Duration::from_secs(5), events.next()).await.unwrap().unwrap();
    assert!(matches!(next().await, Ok(watcher::Event::Init)));
    assert!(matches!(next().await, Ok(watcher::Event::InitApply(_))));
    assert!(matches!(next().await, Ok(watcher::Event::InitDone)));
    api.create(&PostParams::default(), &pod("b")).await.unwrap();
    api.create(&PostParams::default(), &pod("c")).await.unwrap();
    assert!(matches!(next().await, Ok(watcher::Event::Apply(pod)) if pod.metadata.name.as_deref() == Some("c")));
    // It no longer matches, so for this watch it is gone.
    let patch = json!({"metadata": {"labels": {"app": "b"}}});
    api.patch("c", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    assert!(matches!(next().await, Ok(watcher::Event::Delete(pod)) if pod.metadata.name.as_deref() == Some("c")));
    server.expire_watches();
    api.delete("a", &DeleteParams::default()).await.unwrap();
    let mut started_over = false;
    for _ in 0..4 {
        match next().await {
            Ok(watcher::Event::Init) => started_over = true,
            Ok(watcher::Event::InitDone) => break,
            _ => {}
        }
    }
    assert!(started_over);
}

#[tokio::test]
async fn trouble_comes_as_often_as_it_was_asked_for() {
    let (server, client) = start().await;
    let api: Api<Pod> = Api::namespaced(client, "default");
    let fault = |trouble| Fault { verb: "list".into(), resource: "pods".into(), times: 1, trouble };
    server.inject(fault(Trouble::Error(429, Some(3))));
    let busy = api.list(&ListParams::default()).await.unwrap_err();
    let kube::Error::Api(status) = busy else { panic!("{busy}") };
    assert_eq!((status.code, status.details.unwrap().retry_after_seconds), (429, 3));
    server.inject(fault(Trouble::Garbage));
    assert!(api.list(&ListParams::default()).await.is_err());
    assert!(api.list(&ListParams::default()).await.is_ok());
}

#[tokio::test]
async fn kubectl_gets_the_columns_it_knows() {
    let (server, client) = start().await;
    Api::<ResourceSlice>::all(client.clone()).create(&PostParams::default(), &slice("n1")).await.unwrap();
    let request = axum::http::Request::get("/apis/resource.k8s.io/v1/resourceslices")
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")
        .body(Vec::new())
        .unwrap();
    let table: Value = client.request(request).await.unwrap();
    let columns: Vec<&str> =
        table["columnDefinitions"].as_array().unwrap().iter().filter_map(|c| c["name"].as_str()).collect();
    assert_eq!(columns, ["Name", "Node", "Driver", "Pool", "Age"]);
    assert_eq!(table["rows"][0]["cells"][1], "n1");
    assert!(server.kubeconfig().contains(&server.url()));
}
