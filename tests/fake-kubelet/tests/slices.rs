//! When the kubelet wipes `ResourceSlice`s.
use std::time::Duration;

use support::{DRIVER, Node, eventually};

mod support;

const ALL: &str = "fieldSelector=spec.nodeName=node-1";
const OURS: &str = "fieldSelector=spec.driver=gpu.example.com,spec.nodeName=node-1";

fn wipes(node: &Node, selector: &str) -> usize {
    node.api.wiped().iter().filter(|query| query.trim_matches(['&', '?']) == selector).count()
}

#[tokio::test]
async fn all_slices_of_the_node_are_wiped_at_each_start() {
    let node = Node::new();
    let kubelet = node.kubelet().start().unwrap();
    eventually("first wipe", || wipes(&node, ALL) == 1).await;
    kubelet.restart().unwrap();
    eventually("second wipe", || wipes(&node, ALL) == 2).await;
}

#[tokio::test]
async fn a_drivers_slices_are_wiped_once_when_it_stays_away() {
    let node = Node::new();
    let kubelet = node.kubelet().wipe_delay(Duration::from_millis(300)).start().unwrap();
    let plugin = node.plugin("gpu@reg.sock");
    kubelet.wait_registered(DRIVER).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(wipes(&node, OURS), 0, "not while it is connected");
    plugin.unregister();
    eventually("wiped", || wipes(&node, OURS) == 1).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(wipes(&node, OURS), 1);
}

#[tokio::test]
async fn a_crash_counts_as_staying_away() {
    let node = Node::new();
    let kubelet = node.kubelet().wipe_delay(Duration::from_millis(100)).start().unwrap();
    let plugin = node.plugin("gpu@reg.sock");
    kubelet.wait_registered(DRIVER).await.unwrap();
    plugin.crash();
    eventually("wiped", || wipes(&node, OURS) == 1).await;
    assert!(kubelet.client(DRIVER).is_ok(), "still registered");
}

#[tokio::test]
async fn a_quick_restart_of_the_driver_keeps_its_slices() {
    let node = Node::new();
    let kubelet = node.kubelet().wipe_delay(Duration::from_millis(1500)).start().unwrap();
    let plugin = node.plugin("gpu@reg.sock");
    kubelet.wait_registered(DRIVER).await.unwrap();
    plugin.unregister();
    let _next = node.plugin("gpu@reg.sock");
    tokio::time::sleep(Duration::from_secs(2)).await;
    kubelet.wait_registered(DRIVER).await.unwrap();
    assert_eq!(wipes(&node, OURS), 0);
}
