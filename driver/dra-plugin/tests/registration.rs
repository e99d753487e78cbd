//! A plugin and the very bytes of a real kubelet: what `kubelet` 1.36.2 sent to a socket in `plugins_registry` when asked
//! to find a driver there (connection preface, SETTINGS, and `GetInfo` with the socket's path as its `:authority`).
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
use std::time::Duration;

use dra_plugin::{AllocatedClaim, Call, ClaimRef, Driver, Failure, Plugin, PreparedDevice};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};
use tokio_util::sync::CancellationToken;

/// Sent to `capture.example.com-reg.sock`; its authority is no authority to h2.
const DASH: &[u8] = include_bytes!("kubelet-1.36.2/get-info-dash.bin");
/// Sent to `capture.example.com@reg.sock`.
const AT: &[u8] = include_bytes!("kubelet-1.36.2/get-info-at.bin");

struct Nothing;

impl Driver for Nothing {
    async fn recall(&self, _claim: &ClaimRef) -> Option<Result<Vec<PreparedDevice>, Failure>> {
        None
    }

    async fn prepare(&self, _claim: AllocatedClaim, _call: &Call) -> Result<Vec<PreparedDevice>, Failure> {
        Ok(vec![])
    }

    async fn unprepare(&self, _claim: &ClaimRef) -> Result<(), Failure> {
        Ok(())
    }
}

/// Sends `bytes` in pieces of `piece`, and reads until `until` is in the answer.
async fn answer(socket: &std::path::Path, bytes: &[u8], piece: usize, until: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    for piece in bytes.chunks(piece) {
        stream.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut answer = Vec::new();
    let read = async {
        while !answer.windows(until.len()).any(|window| window == until) {
            if stream.read_buf(&mut answer).await.unwrap() == 0 {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(5), read).await;
    answer
}

#[tokio::test]
async fn the_kubelets_exact_bytes_are_answered_whatever_the_socket_is_called_and_however_they_arrive() {
    let root = tempfile::tempdir().unwrap();
    let config = kube::Config::new("http://127.0.0.1:9".parse().unwrap());
    let client = kube::Client::try_from(config).unwrap();
    let plugin = Plugin::builder("gpu.example.com").unwrap().kubelet_root(root.path()).claims(client);
    let stop = CancellationToken::new();
    let running = tokio::spawn(plugin.build(Nothing).unwrap().run(stop.clone()));
    let socket = root.path().join("plugins_registry/gpu.example.com@reg.sock");
    for _ in 0..500 {
        if socket.exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let endpoint = root.path().join("plugins/gpu.example.com/dra.sock");
    for (name, bytes) in [("dash", DASH), ("at", AT)] {
        for piece in [bytes.len(), 7, 1] {
            let answer = answer(&socket, bytes, piece, b"v1beta1.DRAPlugin").await;
            let has = |text: &str| answer.windows(text.len()).any(|window| window == text.as_bytes());
            for part in
                ["DRAPlugin", "gpu.example.com", endpoint.to_str().unwrap(), "v1.DRAPlugin", "v1beta1.DRAPlugin"]
            {
                assert!(has(part), "{name} in pieces of {piece}: no {part} in {answer:?}");
            }
        }
    }
    stop.cancel();
    running.await.unwrap().unwrap();
    assert!(!socket.exists() && !endpoint.exists(), "the sockets go with the plugin");
}
