//! The publisher against an API server that forgets, refuses, drops and stumbles.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
use std::time::Duration;

use dra_plugin::{
    DriverName,
    slices::{
        Feature, Handle, NodeName, Pool, PoolName, PublishStatus, Publisher, Rehearsal, RehearsalError, rehearse,
    },
};
use fake_apiserver::{Builder, Fault, Server, Trouble};
use k8s_openapi::api::{
    core::v1::Node,
    resource::v1::{Device, ResourceSlice},
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

struct Bed {
    api: Server,
    client: Client,
    handle: Handle,
    stop: CancellationToken,
}

impl Bed {
    async fn start(api: Builder) -> Self {
        let api = api.start().await.unwrap();
        let mut config = kube::Config::new(api.url().parse().unwrap());
        config.default_retry = false;
        let client = Client::try_from(config).unwrap();
        make_node(&client).await;
        let (handle, stop) = publisher(&client);
        Self { api, client, handle, stop }
    }

    fn slices(&self) -> Vec<ResourceSlice> {
        let slices = self.api.peek_all("resourceslices");
        slices.into_iter().map(|slice| serde_json::from_value(slice).unwrap()).collect()
    }

    async fn published(&self) -> PublishStatus {
        let mut status = self.handle.status();
        let wait = status.wait_for(|status| matches!(status, PublishStatus::Published { .. }));
        tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap().unwrap().clone()
    }

    async fn until(&self, holds: impl Fn(&[ResourceSlice]) -> bool) {
        for _ in 0..1000 {
            if holds(&self.slices()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it did not come to be: {:?}", self.slices());
    }

    async fn rest(&self) -> usize {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        self.api.writes()
    }
}

fn publisher(client: &Client) -> (Handle, CancellationToken) {
    let (driver, node) = (DriverName::new("gpu.example.com").unwrap(), NodeName::new("n1").unwrap());
    let (publisher, handle) = Publisher::new(client.clone(), driver, node);
    let stop = CancellationToken::new();
    tokio::spawn(publisher.run(stop.clone()));
    (handle, stop)
}

async fn make_node(client: &Client) {
    let node: Node = serde_json::from_value(json!({"metadata": {"name": "n1"}})).unwrap();
    Api::<Node>::all(client.clone()).create(&PostParams::default(), &node).await.unwrap();
}

fn pool(count: usize) -> Pool {
    let device = |number| Device { name: format!("gpu-{number}"), ..Device::default() };
    let name = PoolName::new("gpu.example.com/n1").unwrap();
    Pool { devices: (0..count).map(device).collect(), ..Pool::empty(name) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_is_written_once_with_the_node_as_its_owner_and_again_only_when_it_changes() {
    let bed = Bed::start(Server::builder()).await;
    bed.handle.publish(pool(200)).unwrap();
    assert!(matches!(bed.published().await, PublishStatus::Published { generation: 1, slices: 2, .. }));
    let slices = bed.slices();
    let node = bed.api.peek("nodes", "", "n1").unwrap();
    let owner = &slices[0].metadata.owner_references.as_ref().unwrap()[0];
    assert_eq!((owner.kind.as_str(), Some(owner.uid.as_str())), ("Node", node["metadata"]["uid"].as_str()));
    let before = bed.rest().await;
    bed.handle.publish(pool(200)).unwrap();
    assert_eq!(bed.rest().await, before);
    bed.handle.publish(pool(201)).unwrap();
    bed.until(|slices| {
        slices.iter().map(|slice| slice.spec.devices.as_ref().map_or(0, Vec::len)).sum::<usize>() == 201
    })
    .await;
    assert_eq!(bed.rest().await, before + 1, "a change in one slice is one write");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_wiped_comes_back_with_a_later_generation() {
    let bed = Bed::start(Server::builder()).await;
    bed.handle.publish(pool(1)).unwrap();
    bed.published().await;
    let slices: Api<ResourceSlice> = Api::all(bed.client.clone());
    slices.delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();
    bed.until(|slices| slices.len() == 1 && slices[0].spec.pool.generation == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_made_anew_owns_the_slices_that_come_back() {
    let bed = Bed::start(Server::builder()).await;
    bed.handle.publish(pool(1)).unwrap();
    bed.published().await;
    Api::<Node>::all(bed.client.clone()).delete("n1", &DeleteParams::default()).await.unwrap();
    make_node(&bed.client).await;
    let slices: Api<ResourceSlice> = Api::all(bed.client.clone());
    slices.delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();
    let node = bed.api.peek("nodes", "", "n1").unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
    bed.until(|slices| slices.len() == 1 && slices[0].metadata.owner_references.as_ref().unwrap()[0].uid == node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_is_not_stored_is_told_and_not_sent_again_and_again() {
    let bed =
        Bed::start(Server::builder().drop_field("resourceslices", "spec.devices[].allowMultipleAllocations")).await;
    let mut shared = pool(2);
    shared.devices[1].allow_multiple_allocations = Some(true);
    bed.handle.publish(shared).unwrap();
    let PublishStatus::Published { dropped, .. } = bed.published().await else { panic!("not published") };
    assert_eq!(
        (dropped[0].feature, dropped[0].of.as_slice()),
        (Feature::ConsumableCapacity, &["gpu-1".to_owned()][..])
    );
    let before = bed.rest().await;
    assert_eq!(bed.rest().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn conflicts_and_a_busy_server_are_overcome() {
    let bed = Bed::start(Server::builder()).await;
    let fault = |verb: &str, trouble| Fault { verb: verb.into(), resource: "resourceslices".into(), times: 2, trouble };
    bed.api.inject(fault("create", Trouble::Error(500, None)));
    bed.handle.publish(pool(1)).unwrap();
    bed.published().await;
    bed.api.inject(fault("update", Trouble::Error(409, None)));
    bed.handle.publish(pool(2)).unwrap();
    bed.until(|slices| slices[0].spec.devices.as_ref().map_or(0, Vec::len) == 2).await;
    bed.api.inject(Fault { times: 1, ..fault("update", Trouble::Error(429, Some(1))) });
    let begun = std::time::Instant::now();
    bed.handle.publish(pool(3)).unwrap();
    bed.until(|slices| slices[0].spec.devices.as_ref().map_or(0, Vec::len) == 3).await;
    assert!(begun.elapsed() >= Duration::from_secs(1), "Retry-After is honoured");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_would_be_refused_is_an_error_and_the_last_one_stays() {
    let bed = Bed::start(Server::builder()).await;
    bed.handle.publish(pool(1)).unwrap();
    bed.published().await;
    let mut twice = pool(1);
    twice.devices.push(twice.devices[0].clone());
    assert!(bed.handle.publish(twice).unwrap_err().to_string().contains("more than once"));
    assert_eq!(bed.slices().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_takes_over_what_its_predecessor_left_without_a_write() {
    let bed = Bed::start(Server::builder()).await;
    bed.handle.publish(pool(1)).unwrap();
    bed.published().await;
    bed.stop.cancel();
    let before = bed.rest().await;
    assert_eq!(bed.slices().len(), 1, "slices stay when the publisher ends");
    let (handle, _stop) = publisher(&bed.client);
    handle.publish(pool(1)).unwrap();
    let mut status = handle.status();
    status.wait_for(|status| matches!(status, PublishStatus::Published { .. })).await.unwrap();
    assert_eq!(bed.rest().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rehearsal_tells_what_would_be_lost_and_leaves_nothing_behind() {
    let bed =
        Bed::start(Server::builder().drop_field("resourceslices", "spec.devices[].allowMultipleAllocations")).await;
    let (driver, node) = (DriverName::new("gpu.example.com").unwrap(), NodeName::new("n1").unwrap());
    let mut shared = pool(2);
    assert_eq!(rehearse(&bed.client, &driver, &node, &shared).await, Ok(Rehearsal::Complete));
    shared.devices[1].allow_multiple_allocations = Some(true);
    let Ok(Rehearsal::Dropped(dropped)) = rehearse(&bed.client, &driver, &node, &shared).await else {
        panic!("nothing dropped")
    };
    assert_eq!(dropped[0].feature, Feature::ConsumableCapacity);
    let fault = |trouble| Fault { verb: "dry-run".into(), resource: "resourceslices".into(), times: 1, trouble };
    bed.api.inject(fault(Trouble::Error(422, None)));
    assert!(matches!(rehearse(&bed.client, &driver, &node, &shared).await, Ok(Rehearsal::Invalid(_))));
    assert!(bed.slices().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_be_asked_says_nothing_of_what_it_stores() {
    let bed = Bed::start(Server::builder()).await;
    let (driver, node) = (DriverName::new("gpu.example.com").unwrap(), NodeName::new("n1").unwrap());
    let ask = async |trouble| {
        bed.api.inject(Fault { verb: "dry-run".into(), resource: "resourceslices".into(), times: 1, trouble });
        rehearse(&bed.client, &driver, &node, &pool(1)).await.unwrap_err()
    };
    // A role that isn't bound yet; a webhook that takes no dry run.
    for code in [403, 400] {
        let error = ask(Trouble::Error(code, None)).await;
        assert!(matches!(&error, RehearsalError::Refused { status, .. } if *status == code), "{error}");
        assert!(error.to_string().contains(&format!("HTTP status {code}")), "{error}");
    }
    let error = ask(Trouble::Error(429, Some(7))).await;
    let pause = Some(Duration::from_secs(7));
    assert!(matches!(&error, RehearsalError::Busy { retry_after, .. } if *retry_after == pause), "{error}");
    assert!(matches!(ask(Trouble::Error(503, None)).await, RehearsalError::Busy { retry_after: None, .. }));
}

/// As during a rolling update, where both know the same but one hears of it late.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_contradicted_is_told_in_time_to_look_again() {
    let bed = Bed::start(Server::builder()).await;
    bed.handle.publish(pool(1)).unwrap();
    bed.published().await;
    let mut contested = bed.handle.contested();
    assert!(!contested.has_changed().unwrap(), "its own writes contradict nobody");
    let (other, _stop) = publisher(&bed.client);
    other.publish(pool(2)).unwrap();
    tokio::time::timeout(Duration::from_secs(5), contested.changed()).await.unwrap().unwrap();
    bed.handle.publish(pool(2)).unwrap();
    let before = bed.api.writes();
    assert_eq!((bed.rest().await, bed.rest().await), (before, before), "nobody contradicts anybody any more");
    assert!(!other.contested().has_changed().unwrap());
}
