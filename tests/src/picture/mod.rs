//! The picture of `aliquot-driver status`: a scene on a simulated node, and what the real command shows of it.
mod svg;

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, SystemTime},
};

use fake_kubelet::PodSpec;
use fake_nvml::{Control, Process, Readings};
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::{
    objects::{allocation, share, whole},
    testbed::{Result, Testbed},
};

/// Where the picture is.
pub fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/status.svg")
}

/// A pod with a claim.
struct Holder {
    pod: &'static str,
    gpu: usize,
    /// Gibibytes of its share; none for all of the GPU.
    share: Option<u64>,
    /// Gibibytes that its process uses.
    used: f64,
    /// Per cent of the GPU's time.
    busy: u32,
    /// In seconds, away from where the figure that is shown changes.
    age: u64,
}

const HOLDERS: [Holder; 6] = [
    Holder { pod: "llama-train-0", gpu: 0, share: None, used: 71.4, busy: 97, age: 3 * 86_400 + 500 },
    Holder { pod: "llama-train-1", gpu: 1, share: None, used: 70.9, busy: 96, age: 3 * 86_400 + 400 },
    Holder { pod: "notebook-anna", gpu: 2, share: Some(20), used: 11.2, busy: 34, age: 5 * 3600 + 300 },
    Holder { pod: "notebook-ben", gpu: 2, share: Some(20), used: 3.6, busy: 0, age: 26 * 3600 + 300 },
    Holder { pod: "embeddings-7d9f", gpu: 2, share: Some(8), used: 6.1, busy: 21, age: 47 * 60 + 20 },
    Holder { pod: "whisper-5c4b", gpu: 3, share: Some(16), used: 9.8, busy: 58, age: 12 * 60 + 20 },
];
/// By GPU: °C and W.
const WARMTH: [(u32, u32); 8] = [(64, 641), (62, 633), (48, 288), (51, 342), (33, 72), (32, 70), (33, 71), (31, 70)];
/// One that had an uncorrectable error of its memory.
const ILL: usize = 6;
const RESET_GPU: u32 = 1;

/// Ends when the scene does.
struct Sleeper(Child);

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the command shows of the scene, as SVG; the same each time.
pub async fn draw() -> Result<String> {
    let mut testbed = Testbed::without_driver("h100x8", fake_apiserver::Server::builder()).await?;
    let gpus = testbed.node.profile().gpus.clone();
    let mut control = Control { recovery: [(gpus[ILL].uuid.clone(), RESET_GPU)].into(), ..Control::default() };
    testbed.node.control(&control)?;
    testbed.start_driver(&[
        ("ALIQUOT_SWEEP", "report"),
        ("ALIQUOT_SWEEP_INTERVAL", "1s"),
        ("ALIQUOT_SWEEP_GRACE", "1s"),
    ])?;
    testbed.ready().await?;
    let mut sleepers = Vec::new();
    let mut readings: BTreeMap<String, Readings> = BTreeMap::new();
    for (gpu, (temperature, watts)) in gpus.iter().zip(WARMTH) {
        let (temperature, power) = (Some(temperature), Some(watts * 1000));
        readings.insert(gpu.uuid.clone(), Readings { temperature, power, ..Readings::default() });
    }
    for holder in &HOLDERS {
        let gpu = &gpus[holder.gpu];
        hold(&testbed, holder, &gpu.pci).await?;
        let sleeper = Sleeper(Command::new("sleep").arg("600").stdin(Stdio::null()).spawn()?);
        testbed.node.place(sleeper.0.id(), Some(holder.pod))?;
        let used = bytes(holder.used);
        let process = Process { pid: sleeper.0.id(), used: Some(used), graphics: false };
        control.processes.entry(gpu.uuid.clone()).or_default().push(process);
        let reading = readings.entry(gpu.uuid.clone()).or_default();
        // What the driver itself takes.
        reading.memory_used += used + if reading.memory_used == 0 { bytes(0.6) } else { 0 };
        reading.busy = Some([reading.busy.unwrap_or_default()[0] + holder.busy, 0]);
        reading.processes.get_or_insert_default().insert(sleeper.0.id(), holder.busy);
        sleepers.push(sleeper);
    }
    control.readings = readings;
    testbed.node.control(&control)?;
    let all = HOLDERS.len() as u64;
    testbed.until_metric("aliquot_claims", Some(all)).await?;
    testbed.until("the sweep has looked", || judged(&testbed).is_ok_and(|judged| judged == HOLDERS.len())).await?;
    let output = testbed.driver_command("status").args(["--color", "always"]).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    svg::drawn(&String::from_utf8(output.stdout)?)
}

/// How many claims the driver's sweep has seen in use.
fn judged(testbed: &Testbed) -> Result<usize> {
    let output = testbed.driver_command("status").args(["-o", "json"]).output()?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let claims = report["claims"].as_array().into_iter().flatten();
    Ok(claims.filter(|claim| claim["sweep"]["verdict"] == "in_use").count())
}

/// Has a claim prepared as for a pod that was started so long ago.
async fn hold(testbed: &Testbed, holder: &Holder, pci: &str) -> Result<()> {
    let device = format!("gpu-{}", pci.trim_end_matches(".0").replace(':', "-"));
    let result = match holder.share {
        Some(gib) => share("gpu", &format!("{device}-shared"), 1, gib),
        None => whole("gpu", &device),
    };
    let claim = testbed.allocated_in("ml", holder.pod, allocation(&[result])).await?;
    let claims: Api<ResourceClaim> = Api::namespaced(testbed.client.clone(), "ml");
    let user = json!({"resource": "pods", "name": holder.pod, "uid": holder.pod});
    let reserved = Patch::Merge(json!({"status": {"reservedFor": [user]}}));
    claims.patch_status(&claim.name, &PatchParams::default(), &reserved).await?;
    testbed.kubelet.run_pod(PodSpec::simple("ml", holder.pod, holder.pod, &[&claim.name])).await?;
    let record = testbed.records()?.into_iter().find(|path| path.to_string_lossy().contains(&claim.uid));
    #[allow(clippy::disallowed_methods, reason = "it decides nothing but what is shown")]
    let written = SystemTime::now() - Duration::from_secs(holder.age);
    Ok(File::options().append(true).open(record.ok_or("no record")?)?.set_modified(written)?)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "figures of a scene")]
fn bytes(gibibytes: f64) -> u64 {
    (gibibytes * f64::from(1 << 30)) as u64
}
