//! A node on which drivers are ended at points, and the kubelet's calls to them.
use std::{
    path::{Path, PathBuf},
    process::{Child, ExitStatus, Stdio},
    time::Duration,
};

use fake_apiserver::Server;
use fake_kubelet::Driver as Client;
use kubelet_api::dra::v1::Claim;
use serde_json::json;
use tokio::time::Instant;

use super::scene::Scene;
use crate::{
    kernel::Kernel,
    objects,
    passthrough::{DYNAMIC, Function},
    testbed::{DRIVER, PATIENCE, Result, Testbed},
};

/// The GPU of profile limits that is held in shares, and the one that is held whole.
const SHARED: &str = "gpu-0000-1b-00-shared";
const SHARED_GPU: &str = "0000:1b:00.0";
const WHOLE: &str = "gpu-0000-43-00";
/// The same one with the function beside it, which go to a virtual machine where that is what happens.
pub(super) const GPU: &str = "0000:43:00.0";
pub(super) const AUDIO: &str = "0000:43:00.1";
const MACHINE: &str = "gpu-0000-43-00-vfio";
const GROUP: u32 = 12;
/// Between two looks at whether something has come to be.
pub(super) const LOOK: Duration = Duration::from_millis(5);
/// How long the driver tries before it answers with an error; everything that it waits for here is orders.
const BUDGET: &str = "1s";
/// No call of the driver tries any more after this.
pub(super) const SPENT: Duration = Duration::from_millis(1100);
const NVML_DEADLINE: &str = "1s";

/// What the kubelet asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// Answered with the ids of CDI devices.
    Prepare,
    /// Answered with nothing.
    Unprepare,
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Done(Vec<String>),
    Refused(String),
    /// The driver ended.
    Died,
}

/// One driver process.
pub(super) struct Instance {
    process: Child,
    orders: PathBuf,
}

impl Instance {
    /// Whether it has ended.
    pub(super) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.process.try_wait()?)
    }

    /// What is to happen to it from now on.
    pub(super) fn order(&self, orders: &str) -> Result<()> {
        Ok(write(&self.orders, orders)?)
    }

    /// Waits until it is stopped by its order, or has ended; whether it is stopped.
    pub(super) async fn stopped(&mut self) -> Result<bool> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap_or_default();
            if stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')) {
                return Ok(true);
            }
            if self.ended()?.is_some() {
                return Ok(false);
            }
            tokio::time::sleep(LOOK).await;
        }
        Err("the driver was to stop".into())
    }

    /// Lets it go on.
    pub(super) fn go_on(&self) -> Result<()> {
        let pid = rustix::process::Pid::from_child(&self.process);
        Ok(rustix::process::kill_process(pid, rustix::process::Signal::CONT)?)
    }

    /// Ends it as SIGTERM does.
    pub(super) async fn terminate(&mut self) -> Result<()> {
        crate::testbed::end(&self.process)?;
        let deadline = Instant::now() + PATIENCE;
        while self.ended()?.is_none() {
            if Instant::now() > deadline {
                return Err("the driver does not end".into());
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Ends it as SIGKILL does.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// Starts drivers on a node.
pub(super) struct Spawner {
    command: std::process::Command,
    dir: PathBuf,
    log: PathBuf,
    number: usize,
}

impl Spawner {
    /// A driver with these orders.
    pub(super) fn instance(&mut self, orders: &str, pod_uid: Option<&str>) -> Result<Instance> {
        self.number += 1;
        let path = self.dir.join(format!("orders-{}", self.number));
        write(&path, orders)?;
        self.command.env("ALIQUOT_FAULT", &path);
        match pod_uid {
            Some(uid) => self.command.env("POD_UID", uid),
            None => self.command.env_remove("POD_UID"),
        };
        let log = std::fs::File::options().create(true).append(true).open(&self.log)?;
        let process = self.command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?;
        Ok(Instance { process, orders: path })
    }
}

/// The node, the driver that serves it, and a claim that stands by.
pub(super) struct Stage {
    pub(super) kernel: Kernel,
    pub(super) testbed: Testbed,
    pub(super) scene: Scene,
    /// None while nobody serves.
    pub(super) driver: Option<Instance>,
    /// How many claims there were.
    number: usize,
    spawner: Spawner,
    pub(super) trace: PathBuf,
}

impl Stage {
    /// A node without a driver.
    pub(super) async fn set() -> Result<Self> {
        let testbed = Testbed::without_driver("limits", Server::builder()).await?;
        let trace = testbed.node.path("trace");
        let params = testbed.node.path("proc/driver/nvidia");
        std::fs::create_dir_all(&params)?;
        std::fs::write(params.join("params"), "ModifyDeviceFiles: 1\n")?;
        testbed.node.plug(Function::gpu(SHARED_GPU, "nvidia", GROUP - 1))?;
        testbed.node.plug(Function::gpu(GPU, "nvidia", GROUP))?;
        testbed.node.plug(Function::audio(AUDIO, "snd_hda_intel", GROUP))?;
        let kernel = Kernel::boot(&testbed.node, false)?;
        std::fs::write(testbed.node.path("policy.yaml"), DYNAMIC)?;
        let spawner = spawner(&testbed, Some(&trace));
        Ok(Self { kernel, testbed, scene: Scene::Claim, driver: None, number: 0, spawner, trace })
    }

    /// Another one that starts drivers here, whose passages aren't traced.
    pub(super) fn spawner(&self) -> Spawner {
        let mut spawner = spawner(&self.testbed, None);
        spawner.number = 1 << 20;
        spawner
    }

    /// A driver with these orders, for a caller that looks after it.
    pub(super) fn instance(&mut self, orders: &str, pod_uid: Option<&str>) -> Result<Instance> {
        self.spawner.instance(orders, pod_uid)
    }

    /// Starts the one that serves.
    pub(super) fn start(&mut self, orders: &str) -> Result<()> {
        self.driver = Some(self.instance(orders, None)?);
        Ok(())
    }

    /// Gives the one that serves orders.
    pub(super) fn order(&self, orders: &str) -> Result<()> {
        self.driver.as_ref().ok_or("no driver runs")?.order(orders)
    }

    /// Ends the one that serves, if any does.
    pub(super) fn kill(&mut self) -> Result<()> {
        if let Some(mut driver) = self.driver.take() {
            driver.kill()?;
        }
        Ok(())
    }

    /// The kubelet's client of the instance that it would call.
    pub(super) fn client(&self) -> Result<Client> {
        Ok(self.testbed.kubelet.client(DRIVER)?)
    }

    /// Calls as the kubelet does: until there is an answer, or the driver has ended.
    pub(super) async fn call(&mut self, call: Call, claim: &Claim) -> Result<Answer> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = match self.client() {
                Ok(client) => one(&client, call, claim).await,
                Err(error) => Err(error),
            };
            let error = match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let Some(driver) = &mut self.driver else { return Ok(Answer::Died) };
            if driver.ended()?.is_some() {
                return Ok(Answer::Died);
            }
            if Instant::now() > deadline {
                return Err(format!("no answer to {call:?}: {error}; the driver's log:\n{}", self.log()).into());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until the driver that serves is registered, or has ended; whether it is registered.
    pub(super) async fn registered(&mut self) -> Result<bool> {
        let probe = Claim { namespace: "default".into(), name: "nobody".into(), uid: uuid::Uuid::new_v4().to_string() };
        Ok(self.call(Call::Unprepare, &probe).await? != Answer::Died)
    }

    /// The end of the drivers' log.
    pub(super) fn log(&self) -> String {
        let log = self.testbed.log();
        let lines: Vec<&str> = log.lines().collect();
        lines.get(lines.len().saturating_sub(40)..).unwrap_or_default().join("\n")
    }

    fn name(&mut self, what: &str) -> String {
        self.number += 1;
        format!("{what}-{}", self.number)
    }

    /// A claim to a share with a time slice and hard limits, and to a whole GPU.
    pub(super) async fn claim(&mut self) -> Result<Claim> {
        let name = self.name("claim");
        let slice = json!({"apiVersion": "gpu.aliquot.dev/v1alpha1", "kind": "ShareConfig", "sharing":
            {"strategy": "TimeSlicing", "timeSlicingConfig": {"interval": "Short", "required": true}}});
        let config = json!({"source": "FromClaim", "requests": ["share"],
            "opaque": {"driver": DRIVER, "parameters": slice}});
        let results = [objects::share("share", SHARED, 2, 8), objects::whole("whole", WHOLE)];
        self.testbed.allocated_as(&name, json!({"devices": {"results": results, "config": [config]}})).await
    }

    /// A claim to a GPU for a virtual machine.
    pub(super) async fn machine(&mut self) -> Result<Claim> {
        let name = self.name("machine");
        self.testbed.allocated(&name, &[("gpu", MACHINE)]).await
    }

    /// A claim to the whole GPU alone.
    pub(super) async fn rival(&mut self) -> Result<Claim> {
        let name = self.name("rival");
        self.testbed.allocated(&name, &[("gpu", WHOLE)]).await
    }

    /// A claim to another share.
    pub(super) async fn bystander(&mut self) -> Result<Claim> {
        let name = self.name("bystander");
        self.testbed.allocated_as(&name, objects::allocation(&[objects::share("gpu", SHARED, 1, 4)])).await
    }

    /// The names of the points that drivers have passed since the scene was set.
    pub(super) fn passed(&self) -> Result<Vec<String>> {
        self.traced(|line| !line.contains('='))
    }

    /// The orders that drivers have obeyed since the scene was set.
    pub(super) fn obeyed(&self) -> Result<Vec<String>> {
        self.traced(|line| line.contains('='))
    }

    fn traced(&self, is_meant: impl Fn(&str) -> bool) -> Result<Vec<String>> {
        let trace = std::fs::read_to_string(&self.trace)?;
        Ok(trace.lines().filter(|line| is_meant(line)).map(ToOwned::to_owned).collect())
    }

    /// The plugin's directory.
    pub(super) fn plugin(&self) -> PathBuf {
        self.testbed.node.path("kubelet/plugins").join(DRIVER)
    }

    /// The directory of time slices that couldn't be given back.
    pub(super) fn debts(&self) -> PathBuf {
        self.testbed.node.path("run").join(DRIVER).join("time-slices")
    }

    /// The directory of what a claim's containers may read of their devices.
    pub(super) fn metadata(&self) -> PathBuf {
        self.testbed.node.path("run").join(DRIVER).join("metadata")
    }

    /// The directory of records.
    pub(super) fn records(&self) -> PathBuf {
        self.testbed.node.path("run").join(DRIVER).join("claims")
    }
}

fn spawner(testbed: &Testbed, trace: Option<&Path>) -> Spawner {
    let mut command = testbed.driver_command("run");
    command.env("ALIQUOT_PREPARE_BUDGET", BUDGET).env("ALIQUOT_NVML_DEADLINE", NVML_DEADLINE);
    command.env("ALIQUOT_DEVICE_METADATA", "all");
    command.env("ALIQUOT_POLICY", testbed.node.path("policy.yaml"));
    // The API server is asked by prepares alone, and counted on for that.
    command.env("ALIQUOT_SWEEP", "off");
    if let Some(trace) = trace {
        command.env("ALIQUOT_FAULT_TRACE", trace);
    }
    Spawner { command, dir: testbed.node.path(""), log: testbed.log_path(), number: 0 }
}

/// A claim to one share, which may wish for a time slice.
pub(super) async fn share(testbed: &Testbed, name: &str, device: &str, is_sliced: bool) -> Result<Claim> {
    let slice = json!({"apiVersion": "gpu.aliquot.dev/v1alpha1", "kind": "ShareConfig", "sharing":
        {"strategy": "TimeSlicing", "timeSlicingConfig": {"interval": "Short", "required": true}}});
    let config = json!({"source": "FromClaim", "requests": [], "opaque": {"driver": DRIVER, "parameters": slice}});
    let configs = if is_sliced { vec![config] } else { vec![] };
    let devices = json!({"results": [objects::share("gpu", device, 1, 4)], "config": configs});
    testbed.allocated_as(name, json!({"devices": devices})).await
}

/// One call of one instance: an error is the connection's.
pub(super) async fn one(client: &Client, call: Call, claim: &Claim) -> Result<Answer> {
    let (error, ids) = match call {
        Call::Prepare => {
            let mut answer = client.prepare(vec![claim.clone()]).await?;
            let answer = answer.claims.remove(&claim.uid).ok_or("no answer for the claim")?;
            (answer.error, answer.devices.into_iter().flat_map(|device| device.cdi_device_ids).collect())
        }
        Call::Unprepare => {
            let mut answer = client.unprepare(vec![claim.clone()]).await?;
            (answer.claims.remove(&claim.uid).ok_or("no answer for the claim")?.error, Vec::new())
        }
    };
    Ok(if error.is_empty() { Answer::Done(ids) } else { Answer::Refused(error) })
}

/// Whole or not at all: the driver reads it at any time.
fn write(path: &Path, orders: &str) -> std::io::Result<()> {
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, orders)?;
    std::fs::rename(fresh, path)
}
