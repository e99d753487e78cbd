//! A node for a kubelet: its directories, an API server and drivers.
#![allow(dead_code, unused_imports, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "only tests are compiled with this")]
mod api;
mod cluster;
mod driver;
mod services;

use std::{path::Path, time::Duration};

pub(crate) use api::{Api, result};
pub(crate) use cluster::{Cluster, NODE, create};
pub(crate) use driver::{Behaviour, Call, Plugin, prepared};
use fake_kubelet::{Builder, Kubelet};
use tempfile::TempDir;

pub(crate) const DRIVER: &str = "gpu.example.com";

/// A kubelet root with an API server beside it.
pub(crate) struct Node {
    pub(crate) dir: TempDir,
    pub(crate) api: Api,
}

impl Node {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), api: Api::default() }
    }

    pub(crate) fn root(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn kubelet(&self) -> Builder {
        Kubelet::builder(self.root(), "node-1", self.api.client()).patience(Duration::from_secs(5))
    }

    pub(crate) fn plugin(&self, socket: &str) -> Plugin {
        Plugin::start(self.root(), socket, "dra.sock", Behaviour::default())
    }
}

/// A kubelet that gives drivers one second, and a driver that is registered with it.
pub(crate) async fn registered() -> (Node, Plugin, Kubelet) {
    let node = Node::new();
    let plugin = node.plugin("gpu@reg.sock");
    let kubelet = node.kubelet().call_timeout(Duration::from_secs(1)).start().unwrap();
    kubelet.wait_registered(DRIVER).await.unwrap();
    (node, plugin, kubelet)
}

/// Waits up to five seconds for something to become true.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within five seconds: {what}");
}
