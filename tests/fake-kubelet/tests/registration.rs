//! Which sockets the kubelet registers, how it dials them, and what it tells them.
use std::{path::PathBuf, time::Duration};

use fake_kubelet::{Registration, Version};
use support::{Behaviour, DRIVER, Node, Plugin, eventually};

mod support;

fn registration_of(kubelet: &fake_kubelet::Kubelet, socket: &PathBuf) -> Registration {
    kubelet.registrations().remove(socket).unwrap_or_default()
}

#[tokio::test]
async fn a_stock_tonic_server_registers_through_a_socket_name_with_an_at_sign() {
    let node = Node::new();
    let plugin = node.plugin("gpu.example.com@reg.sock");
    let kubelet = node.kubelet().start().unwrap();
    kubelet.wait_registered(DRIVER).await.unwrap();
    eventually("told", || plugin.told() == [(true, String::new())]).await;
    assert_eq!(kubelet.client(DRIVER).unwrap().endpoint, plugin.endpoint);
}

#[tokio::test]
async fn a_stock_tonic_server_refuses_the_authority_of_a_plain_socket_name() {
    let node = Node::new();
    let plugin = node.plugin("gpu.example.com-reg.sock");
    let kubelet = node.kubelet().start().unwrap();
    eventually("a second attempt", || registration_of(&kubelet, &plugin.registration).attempts >= 2).await;
    let failure = registration_of(&kubelet, &plugin.registration).failure.unwrap();
    assert!(failure.contains("RPC GetInfo") && failure.contains("PROTOCOL_ERROR"), "{failure}");
    assert!(plugin.told().is_empty());
    assert_eq!(kubelet.client(DRIVER).unwrap_err().to_string(), "DRA driver gpu.example.com is not registered");
}

#[tokio::test]
async fn a_socket_that_appears_is_registered_and_one_that_goes_is_forgotten() {
    let node = Node::new();
    let kubelet = node.kubelet().start().unwrap();
    let plugin = node.plugin("late@reg.sock");
    kubelet.wait_registered(DRIVER).await.unwrap();
    plugin.unregister();
    eventually("forgotten", || kubelet.client(DRIVER).is_err() && kubelet.registrations().is_empty()).await;
}

#[tokio::test]
async fn a_new_directory_is_looked_into() {
    let node = Node::new();
    let kubelet = node.kubelet().start().unwrap();
    let _plugin = node.plugin("a/b/gpu@reg.sock");
    kubelet.wait_registered(DRIVER).await.unwrap();
}

#[tokio::test]
async fn hidden_sockets_and_plain_files_are_left_alone() {
    let node = Node::new();
    let _hidden = node.plugin(".hidden@reg.sock");
    std::fs::write(node.root().join("plugins_registry/file@reg.sock"), "").unwrap();
    let kubelet = node.kubelet().start().unwrap();
    let _later = Plugin::start(node.root(), ".later@reg.sock", "later.sock", Behaviour::default());
    let good = Plugin::start(node.root(), "gpu@reg.sock", "gpu.sock", Behaviour::default());
    kubelet.wait_registered(DRIVER).await.unwrap();
    assert_eq!(kubelet.registrations().into_keys().collect::<Vec<_>>(), std::slice::from_ref(&good.registration));
}

#[tokio::test]
async fn the_first_known_version_in_the_plugins_order_is_used() {
    let node = Node::new();
    let versions = vec!["v7.DRAPlugin", "v1beta1.DRAPlugin", "v1.DRAPlugin"];
    let _plugin = Plugin::start(node.root(), "x@r.sock", "dra.sock", Behaviour { versions, ..Behaviour::default() });
    let kubelet = node.kubelet().start().unwrap();
    kubelet.wait_registered(DRIVER).await.unwrap();
    assert_eq!(kubelet.client(DRIVER).unwrap().version, Version::V1Beta1);
}

#[tokio::test]
async fn a_plugin_without_a_known_version_is_told_so_and_asked_again() {
    let node = Node::new();
    // What tonic calls the service is not what the kubelet calls it.
    let versions = vec!["k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin"];
    let plugin = Plugin::start(node.root(), "x@r.sock", "dra.sock", Behaviour { versions, ..Behaviour::default() });
    let kubelet = node.kubelet().start().unwrap();
    eventually("told twice", || plugin.told().len() >= 2).await;
    let (registered, error) = plugin.told().remove(0);
    assert!(!registered && error.contains("are supported by the kubelet"), "{error}");
    plugin.change(|behaviour| behaviour.versions = vec!["v1.DRAPlugin"]);
    kubelet.wait_registered(DRIVER).await.unwrap();
}

#[tokio::test]
async fn get_info_has_one_second() {
    let node = Node::new();
    let info_delay = Duration::from_millis(1500);
    let plugin = Plugin::start(node.root(), "x@r.sock", "dra.sock", Behaviour { info_delay, ..Behaviour::default() });
    let kubelet = node.kubelet().start().unwrap();
    eventually("a failure", || registration_of(&kubelet, &plugin.registration).failure.is_some()).await;
    let failure = registration_of(&kubelet, &plugin.registration).failure.unwrap();
    // Both ends keep the deadline that the call carries, and either can be first.
    let ends = ["DeadlineExceeded", "an error status and no message"];
    assert!(ends.iter().any(|end| failure.contains(end)), "{failure}");
    plugin.change(|behaviour| behaviour.info_delay = Duration::ZERO);
    kubelet.wait_registered(DRIVER).await.unwrap();
}

#[tokio::test]
async fn of_two_instances_the_newest_that_is_connected_is_used() {
    let node = Node::new();
    let kubelet = node.kubelet().start().unwrap();
    let old = Plugin::start(node.root(), "old@reg.sock", "old.sock", Behaviour::default());
    kubelet.wait_registered(DRIVER).await.unwrap();
    let new = Plugin::start(node.root(), "new@reg.sock", "new.sock", Behaviour::default());
    let used = || kubelet.client(DRIVER).unwrap().endpoint;
    eventually("the new one is used", || used() == new.endpoint).await;
    new.crash();
    eventually("the old one is used again", || used() == old.endpoint).await;
    let stale = kubelet.registrations().len();
    assert_eq!(stale, 2, "a crashed instance stays registered");
}

#[tokio::test]
async fn one_endpoint_cannot_be_registered_twice() {
    let node = Node::new();
    let kubelet = node.kubelet().start().unwrap();
    let first = Plugin::start(node.root(), "first@reg.sock", "dra.sock", Behaviour::default());
    kubelet.wait_registered(DRIVER).await.unwrap();
    let second = Plugin::start(node.root(), "second@reg.sock", "dra.sock", Behaviour::default());
    eventually("told", || !second.told().is_empty()).await;
    let (registered, error) = second.told().remove(0);
    assert!(!registered && error.contains("already registered for DRA driver plugin gpu.example.com"), "{error}");
    drop(first);
}
