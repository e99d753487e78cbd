//! GPUs that fall ill: tainted, told, shown in pods' status, kept over restarts, and given out again once they are well.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod allocated;
mod ill;
mod well;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use aliquot_tests::testbed::{DRIVER, NODE, Result, Testbed};
use fake_apiserver::{Builder, Server};
use fake_nvml::{Control, Happening};
use kubelet_api::health::v1alpha1::HealthStatus;
use serde_json::Value;

/// The first two GPUs of profile h100x8, as they are published.
const FIRST: &str = "gpu-0000-1b-00";
const SECOND: &str = "gpu-0000-43-00";
const TAINT: &str = "gpu.aliquot.dev/unhealthy";
/// `nvmlEventTypeXidCriticalError`.
const XID: u64 = 8;
/// `NVML_GPU_RECOVERY_ACTION_GPU_RESET`.
const RESET: u32 = 1;
/// A driver that needn't be waited for.
const QUICK: [(&str, &str); 2] = [("ALIQUOT_ILLNESS_SETTLES", "1s"), ("ALIQUOT_RESCAN_INTERVAL", "200ms")];
/// One that is believed to be ill for as long as a test takes, whatever the simulated driver says.
const SLOW: [(&str, &str); 2] = [("ALIQUOT_ILLNESS_SETTLES", "60m"), ("ALIQUOT_RESCAN_INTERVAL", "200ms")];

/// A node, and what has happened to its GPUs so far.
struct Ward {
    testbed: Testbed,
    control: Control,
}

impl Ward {
    /// With the driver running, and its watch of events begun.
    async fn start(environment: &[(&str, &str)]) -> Result<Self> {
        Self::start_with(Server::builder(), environment).await
    }

    async fn start_with(api: Builder, environment: &[(&str, &str)]) -> Result<Self> {
        let mut testbed = Testbed::without_driver("h100x8", api).await?;
        testbed.start_driver(environment)?;
        testbed.ready().await?;
        let mut ward = Self { testbed, control: Control::default() };
        ward.until_watched().await?;
        Ok(ward)
    }

    fn uuid(&self, index: usize) -> String {
        self.testbed.node.profile().gpus[index].uuid.clone()
    }

    /// Makes the last GPU report errors of programs, until one is heard: events before the watch began are lost.
    async fn until_watched(&mut self) -> Result<()> {
        let series = self.heard(7, 13);
        let before = self.testbed.metric(&series).await?;
        for _ in 0..100 {
            self.reports(7, 13)?;
            for _ in 0..10 {
                if self.testbed.metric(&series).await? > before {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Err(format!("no event was heard; the driver's log:\n{}", self.testbed.log()).into())
    }

    /// Lets a GPU report an Xid.
    fn reports(&mut self, gpu: usize, xid: u64) -> Result<()> {
        let gpu = self.uuid(gpu);
        self.control.events.push(Happening { gpu, kind: XID, data: xid });
        Ok(self.testbed.node.control(&self.control)?)
    }

    /// The series with how often an Xid was heard.
    fn heard(&self, gpu: usize, xid: u64) -> String {
        format!("aliquot_gpu_xid_errors_total{{uuid=\"{}\",xid=\"{xid}\"}}", self.uuid(gpu))
    }

    /// What tainted devices say, by name: value and effect.
    fn tainted(&self) -> BTreeMap<String, (String, String)> {
        tainted_in(&self.testbed.api.peek_all("resourceslices"))
    }

    async fn until_tainted(&self, gpus: &[&str]) -> Result<()> {
        let expected = of(gpus);
        let is_so = || self.tainted().into_keys().collect::<BTreeSet<_>>() == expected;
        self.testbed.until(&format!("{gpus:?} are tainted"), is_so).await
    }

    /// The kubelet's word on a device, once it is this.
    async fn until_health(&self, device: &str, status: HealthStatus) -> Result<String> {
        let health = || self.testbed.kubelet.health(DRIVER, &format!("{DRIVER}/{NODE}"), device);
        self.testbed.until(&format!("{device} is {status:?}"), || health().status == status).await?;
        Ok(health().message)
    }

    /// How often anything was written to the API server.
    fn writes(&self) -> usize {
        let is_write = |verb: &str| ["create", "update", "patch", "delete", "deletecollection"].contains(&verb);
        self.testbed.api.requests().iter().filter(|((verb, _), _)| is_write(verb)).map(|(_, count)| count).sum()
    }

    /// Since so many states of the slices, whether each that had the first GPU had it tainted, and how many these are.
    fn always_tainted_since(&self, begun: usize) -> (bool, usize) {
        let states = self.testbed.api.history("resourceslices");
        let has_it = |slices: &&Vec<Value>| devices_in(slices).any(|device| device["name"] == FIRST);
        let states = states.iter().skip(begun).filter(has_it);
        let tainted: Vec<bool> = states.map(|slices| tainted_in(slices).contains_key(FIRST)).collect();
        (tainted.iter().all(|tainted| *tainted), tainted.len())
    }
}

/// The devices of GPUs that users can get.
fn of(gpus: &[&str]) -> BTreeSet<String> {
    gpus.iter().flat_map(|gpu| [(*gpu).to_owned(), format!("{gpu}-shared")]).collect()
}

fn devices_in(slices: &[Value]) -> impl Iterator<Item = &Value> {
    let ours = slices.iter().filter(|slice| slice["spec"]["driver"] == DRIVER);
    ours.flat_map(|slice| slice["spec"]["devices"].as_array().into_iter().flatten())
}

fn tainted_in(slices: &[Value]) -> BTreeMap<String, (String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let tainted = devices_in(slices).filter_map(|device| {
        let taint = device["taints"].as_array()?.iter().find(|taint| taint["key"] == TAINT)?;
        Some((text(&device["name"]), (text(&taint["value"]), text(&taint["effect"]))))
    });
    tainted.collect()
}
