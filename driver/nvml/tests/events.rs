//! What GPUs report by themselves, against the simulated library.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod node;

use std::time::Duration;

use aliquot_model::Xid;
use aliquot_nvml::{EventKind, GpuEvent, Nvml, Session};
use fake_nvml::{Control, Happening};
use node::Node;
use tokio::sync::mpsc;

const LONG: Duration = Duration::from_secs(20);
const XID: u64 = 8;
const RECOVERY: u64 = 0x8000;

/// A node whose GPUs are watched, and what they report.
async fn watched(node: &Node) -> (Nvml, mpsc::UnboundedReceiver<GpuEvent>) {
    let (told, events) = mpsc::unbounded_channel();
    let mut nvml = Nvml::watching(node.library(), told).unwrap();
    nvml.read(Session::Keep, LONG).await.unwrap();
    (nvml, events)
}

fn happens(gpu: &str, kind: u64, data: u64) -> Happening {
    Happening { gpu: gpu.to_owned(), kind, data }
}

async fn next(events: &mut mpsc::UnboundedReceiver<GpuEvent>) -> GpuEvent {
    tokio::time::timeout(LONG, events.recv()).await.unwrap().unwrap()
}

/// Lets things happen until the watch, which begins in a thread of its own, has told of one.
async fn until_heard(
    node: &Node,
    events: &mut mpsc::UnboundedReceiver<GpuEvent>,
    happening: &Happening,
) -> (GpuEvent, Vec<Happening>) {
    let mut all = Vec::new();
    loop {
        all.push(happening.clone());
        node.control(&Control { events: all.clone(), ..Control::default() });
        if let Ok(event) = tokio::time::timeout(Duration::from_millis(200), events.recv()).await {
            return (event.unwrap(), all);
        }
    }
}

#[tokio::test]
async fn an_xid_is_told_with_its_gpu_and_number() {
    let node = Node::new();
    let (_nvml, mut events) = watched(&node).await;
    let gpu = node.uuid(1);
    let (event, mut all) = until_heard(&node, &mut events, &happens(gpu.as_str(), XID, 79)).await;
    assert_eq!(event, GpuEvent { gpu: Some(gpu), kind: EventKind::Xid(Xid(79)) });
    let other = node.uuid(0);
    all.push(happens(other.as_str(), RECOVERY, 0));
    node.control(&Control { events: all, ..Control::default() });
    loop {
        let event = next(&mut events).await;
        if event.gpu.as_ref() == Some(&other) {
            break assert_eq!(event.kind, EventKind::Recovery);
        }
    }
}

#[tokio::test]
async fn a_lost_gpu_is_told_and_the_next_session_watches_those_that_are_left() {
    let node = Node::new();
    let (mut nvml, mut events) = watched(&node).await;
    let lost = node.uuid(0);
    until_heard(&node, &mut events, &happens(lost.as_str(), XID, 13)).await;
    node.control(&Control { removed: vec![lost.to_string()], ..Control::default() });
    while next(&mut events).await != (GpuEvent { gpu: None, kind: EventKind::Lost }) {}
    let reading = nvml.read(Session::Renew, LONG).await.unwrap();
    assert_eq!(reading.gpus.len(), 2);
    let mut all = Vec::new();
    let gpu = node.uuid(2);
    loop {
        all.push(happens(gpu.as_str(), XID, 31));
        let events_so_far = all.clone();
        node.control(&Control { removed: vec![lost.to_string()], events: events_so_far, ..Control::default() });
        if let Ok(Some(event)) = tokio::time::timeout(Duration::from_millis(200), events.recv()).await {
            break assert_eq!(event, GpuEvent { gpu: Some(gpu), kind: EventKind::Xid(Xid(31)) });
        }
    }
}

#[tokio::test]
async fn a_gpu_that_cannot_report_costs_the_others_nothing() {
    let node = Node::new();
    let errors = [(node.uuid(0).to_string(), [("nvmlDeviceRegisterEvents".to_owned(), 3)].into())].into();
    node.control(&Control { errors, ..Control::default() });
    let (_nvml, mut events) = watched(&node).await;
    let gpu = node.uuid(1);
    let (event, _) = until_heard(&node, &mut events, &happens(gpu.as_str(), XID, 48)).await;
    assert_eq!(event, GpuEvent { gpu: Some(gpu), kind: EventKind::Xid(Xid(48)) });
}
