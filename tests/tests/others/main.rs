//! GPUs that a device plugin or another DRA driver hands out too: tainted, told, and not prepared while others hold them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod drivers;
mod modes;
mod plugins;
mod prepare;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use aliquot_tests::testbed::{DRIVER, NODE, Result, Testbed};
use fake_apiserver::{Builder, Server};
use fake_kubelet::{DevicePlugins, ListTrouble};
use serde_json::Value;

/// The first two GPUs of profile h100x8, as they are published.
const FIRST: &str = "gpu-0000-1b-00";
const SECOND: &str = "gpu-0000-43-00";
const TAINT: &str = "gpu.aliquot.dev/handed-out-elsewhere";
const RESOURCE: &str = "nvidia.com/gpu";
/// Whoever vanishes counts for 15 s; on a busy machine that takes longer.
const GONE: Duration = Duration::from_mins(1);

/// A node whose kubelet tells of device plugins, before the driver is started.
async fn prepared(api: Builder) -> Result<(Testbed, DevicePlugins)> {
    let testbed = Testbed::without_driver("h100x8", api).await?;
    let plugins = testbed.kubelet.device_plugins().clone();
    Ok((testbed, plugins))
}

/// The same with the driver running.
async fn started(environment: &[(&str, &str)]) -> Result<(Testbed, DevicePlugins)> {
    let (mut testbed, plugins) = prepared(Server::builder()).await?;
    testbed.start_driver(environment)?;
    testbed.ready().await?;
    Ok((testbed, plugins))
}

/// The UUID of a GPU, by its index.
fn uuid(testbed: &Testbed, index: usize) -> String {
    testbed.node.profile().gpus[index].uuid.clone()
}

/// The names of tainted devices among some slices of the driver.
fn tainted_in(slices: &[Value]) -> BTreeSet<String> {
    let ours = slices.iter().filter(|slice| slice["spec"]["driver"] == DRIVER);
    let devices = ours.flat_map(|slice| slice["spec"]["devices"].as_array().into_iter().flatten());
    let is_tainted = |device: &&Value| {
        let taints = device["taints"].as_array().into_iter().flatten();
        taints.into_iter().any(|taint| taint["key"] == TAINT && taint["effect"] == "NoSchedule")
    };
    devices.filter(is_tainted).filter_map(|device| device["name"].as_str().map(ToOwned::to_owned)).collect()
}

/// The names of tainted devices.
fn tainted(testbed: &Testbed) -> BTreeSet<String> {
    tainted_in(&testbed.api.peek_all("resourceslices"))
}

/// The devices of a GPU that users can get.
fn of(gpus: &[&str]) -> BTreeSet<String> {
    gpus.iter().flat_map(|gpu| [(*gpu).to_owned(), format!("{gpu}-shared")]).collect()
}

async fn until_tainted(testbed: &Testbed, gpus: &[&str]) -> Result<()> {
    testbed.until(&format!("{gpus:?} are tainted"), || tainted(testbed) == of(gpus)).await
}

/// Waits until nothing is tainted any more, past the time for which whoever vanishes still counts.
async fn until_clear(testbed: &Testbed) -> Result<()> {
    let deadline = Instant::now() + GONE;
    while !tainted(testbed).is_empty() {
        if Instant::now() > deadline {
            return Err(format!("{:?} are still tainted\n{}", tainted(testbed), testbed.log()).into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// How often slices, events and anything else were written by whoever.
fn writes(testbed: &Testbed) -> usize {
    let is_write = |verb: &str| ["create", "update", "patch", "delete", "deletecollection"].contains(&verb);
    testbed.api.requests().iter().filter(|((verb, _), _)| is_write(verb)).map(|(_, count)| count).sum()
}
