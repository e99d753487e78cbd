//! The driver, the stand-ins around it, and what was measured so far.
use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use fake_apiserver::Server;
use fake_nvml::Profile;
use kubelet_api::dra::v1::Claim;
use serde_json::Value;

use super::super::{
    initramfs::{MODULE_DIR, PROGRAMS},
    places::{CARD, CROWDED, LONE, OTHER},
};
use crate::{
    node::Artifacts,
    testbed::{Result, Testbed},
};

/// How often the driver looks by itself.
const LOOKS: (&str, Duration) = ("10s", Duration::from_secs(10));
/// How long it may take to see what it is told of: less than until then.
const TOLD: Duration = Duration::from_secs(5);

/// What the driver is told, so that it is the machine that it sees.
const MACHINE: [(&str, &str); 5] = [
    ("ALIQUOT_RESCAN_INTERVAL", LOOKS.0),
    ("ALIQUOT_SYS_ROOT", "/sys"),
    ("ALIQUOT_DEV_ROOT", "/dev"),
    ("ALIQUOT_PROC_ROOT", "/proc"),
    ("FAKE_NVML_DEV", "/dev"),
];

/// All of it.
pub(super) struct Scene {
    pub(super) testbed: Testbed,
    /// By what was done: how long it took, each time.
    times: BTreeMap<&'static str, Vec<Duration>>,
}

impl Scene {
    /// Sets up everything but the driver.
    pub(super) async fn set() -> Result<Self> {
        let mut profile = Profile::named("h100x8").ok_or("no such profile")?;
        // NVIDIA's driver numbers them as it gets them.
        for (gpu, place) in profile.gpus.iter_mut().zip([OTHER, LONE, CARD, CROWDED]) {
            place.pci.clone_into(&mut gpu.pci);
        }
        profile.gpus.truncate(1);
        let artifacts = Artifacts::within(&Path::new("/").join(PROGRAMS));
        let testbed = Testbed::made_from(&artifacts, profile, Server::builder()).await?;
        Ok(Self { testbed, times: BTreeMap::new() })
    }

    /// One of the modules in the archive.
    pub(super) fn module(name: &str) -> std::path::PathBuf {
        Path::new("/").join(MODULE_DIR).join(name)
    }

    /// Starts the driver on the machine itself: the kubelet's and its own directories alone are the testbed's.
    pub(super) async fn start_driver(&mut self, more: &[(&str, &str)]) -> Result<()> {
        self.testbed.start_driver(&[&MACHINE[..], more].concat())?;
        self.testbed.ready().await
    }

    /// Kills the driver if it runs, and starts it anew.
    pub(super) async fn restart_driver(&mut self, more: &[(&str, &str)]) -> Result<()> {
        let environment = [&MACHINE[..], more].concat();
        self.testbed.restart_driver(&environment).await
    }

    /// Waits until exactly these devices are published, of which the kernel tells the driver; how long that took.
    pub(super) async fn published(&self, devices: &[&str], since: Instant) -> Result<Duration> {
        self.published_within(TOLD, devices, since).await
    }

    /// The same for what the driver sees when it looks.
    pub(super) async fn published_at_last(&self, devices: &[&str], since: Instant) -> Result<Duration> {
        self.published_within(LOOKS.1 + TOLD, devices, since).await
    }

    async fn published_within(&self, patience: Duration, devices: &[&str], since: Instant) -> Result<Duration> {
        while self.testbed.whole() != devices {
            if since.elapsed() > patience {
                let published = self.testbed.whole();
                return Err(format!("{published:?} are offered; the driver's log:\n{}", self.testbed.log()).into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(since.elapsed())
    }

    /// Prepares a claim to one device.
    pub(super) async fn claim(&self, name: &str, device: &str) -> Result<(Claim, std::result::Result<(), String>)> {
        let claim = self.testbed.allocated(name, &[("gpu", device)]).await?;
        let prepared = self.prepare(&claim).await?;
        Ok((claim, prepared))
    }

    /// Prepares a claim, again or at last.
    pub(super) async fn prepare(&self, claim: &Claim) -> Result<std::result::Result<(), String>> {
        let answer = self.testbed.kubelet.client(crate::testbed::DRIVER)?.prepare(vec![claim.clone()]).await?;
        let answer = answer.claims.get(&claim.uid).ok_or("the driver gave no answer for the claim")?;
        Ok(if answer.error.is_empty() { Ok(()) } else { Err(answer.error.clone()) })
    }

    /// The device nodes in the one claim's CDI spec, as the runtime finds them on the host.
    pub(super) fn nodes(&self) -> Result<Vec<String>> {
        let specs = self.testbed.specs()?;
        let [path] = &specs[..] else { return Err(format!("not one spec: {specs:?}").into()) };
        let spec: Value = serde_json::from_slice(&std::fs::read(path)?)?;
        let nodes = spec["devices"][0]["containerEdits"]["deviceNodes"].as_array();
        Ok(nodes.into_iter().flatten().filter_map(|node| node["hostPath"].as_str().map(ToOwned::to_owned)).collect())
    }

    /// Keeps how long something took.
    pub(super) fn took(&mut self, what: &'static str, time: Duration) {
        self.times.entry(what).or_default().push(time);
    }

    /// What was measured: each thing's longest.
    pub(super) fn figures(&self) -> String {
        let one = |(what, times): (&&str, &Vec<Duration>)| {
            let longest = times.iter().max().copied().unwrap_or_default();
            format!(" {what} {}", milliseconds(longest))
        };
        self.times.iter().map(one).collect()
    }
}

/// As it is told.
pub(super) fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}
