//! Shares with hard memory limits: what is promised, what the container runtime is told to do, and what NVML is told then.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod away;
mod containers;
mod hook;
mod offer;
mod refused;

use std::{
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use aliquot_tests::testbed::{DRIVER, NODE, Result, Testbed};
use fake_nvml::Limit;
use kubelet_api::dra::v1::Claim;
use serde_json::{Value, json};

/// Shares of the GPU of profile limits that can limit memory, and of the one that can't.
const HARD: &str = "gpu-0000-1b-00-shared";
const PLAIN: &str = "gpu-0000-43-00-shared";
const GI: u64 = 1 << 30;
/// Some pod's UID.
const POD: &str = "3f0e8a52-6c1d-4f37-9b0a-52d1f7c8e640";

/// A prepared claim to shares of one device, each with an amount of memory in GiB.
struct Prepared {
    claim: Claim,
    /// Qualified CDI names.
    ids: Vec<String>,
}

async fn prepared(testbed: &Testbed, name: &str, device: &str, gibibytes: &[u64]) -> Result<Prepared> {
    let results: Vec<Value> = gibibytes
        .iter()
        .enumerate()
        .map(|(number, gib)| {
            json!({"driver": DRIVER, "pool": format!("{DRIVER}/{NODE}"), "device": device,
                "request": format!("r{number}"), "shareID": format!("{name}-{number}"),
                "consumedCapacity": {"shares": "1", "memory": format!("{gib}Gi")}})
        })
        .collect();
    let claim = testbed.allocated_as(name, json!({"devices": {"results": results}})).await?;
    let ids = testbed.prepare(&claim).await?.unwrap();
    Ok(Prepared { claim, ids })
}

/// What the spec files say of a CDI device.
fn edits(testbed: &Testbed, id: &str) -> Result<Value> {
    let name = id.split_once('=').unwrap().1;
    for path in testbed.specs()? {
        let spec: Value = serde_json::from_slice(&std::fs::read(path)?)?;
        let mut devices = spec["devices"].as_array().into_iter().flatten();
        if let Some(device) = devices.find(|device| device["name"] == name) {
            return Ok(device["containerEdits"].clone());
        }
    }
    Err(format!("no spec has the device {id}").into())
}

/// The hook that goes with a CDI device.
fn hook(testbed: &Testbed, id: &str) -> Result<Hook> {
    let all = edits(testbed, id)?["hooks"].as_array().cloned().unwrap_or_default();
    assert_eq!((all.len(), &all[0]["hookName"]), (1, &json!("createRuntime")));
    let texts = |list: &Value| list.as_array().unwrap().iter().map(|one| one.as_str().unwrap().to_owned()).collect();
    Ok(Hook { path: all[0]["path"].as_str().unwrap().into(), args: texts(&all[0]["args"]), env: texts(&all[0]["env"]) })
}

/// A hook as a spec tells a runtime to run it.
struct Hook {
    path: PathBuf,
    args: Vec<String>,
    env: Vec<String>,
}

impl Hook {
    /// With another value of one of its flags.
    fn with(mut self, flag: &str, value: &str) -> Self {
        let at = self.args.iter().position(|arg| arg == flag).unwrap();
        value.clone_into(&mut self.args[at + 1]);
        self
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        let env = self.env.iter().map(|variable| variable.split_once('=').unwrap());
        command.arg0(&self.args[0]).args(&self.args[1..]).env_clear().envs(env);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts it on a state, as a runtime does that makes the container of this process.
    fn start(&self, pid: u32) -> Running {
        Running::start(self.command(), &state(pid))
    }

    /// What it says if it ends in failure.
    fn run(&self, pid: u32) -> std::result::Result<(), String> {
        self.start(pid).ended()
    }
}

/// A hook that has its input.
struct Running(Child);

impl Running {
    fn start(mut command: Command, state: &str) -> Self {
        let mut child = command.spawn().unwrap();
        // It may have ended without reading.
        let _ = child.stdin.take().unwrap().write_all(state.as_bytes());
        Self(child)
    }

    fn ended(self) -> std::result::Result<(), String> {
        let output = self.0.wait_with_output().unwrap();
        assert!(output.stdout.is_empty(), "runtimes have no use for it: {output:?}");
        let errors = String::from_utf8(output.stderr).unwrap();
        match output.status.code() {
            Some(0) if errors.is_empty() => Ok(()),
            Some(1) if errors.starts_with("aliquot-hook: ") && errors.trim_end().lines().count() == 1 => Err(errors),
            other => panic!("{other:?}: {errors}"),
        }
    }
}

/// The state of a container that is being made.
fn state(pid: u32) -> String {
    json!({"ociVersion": "1.2.0", "id": "c", "status": "creating", "pid": pid, "bundle": "/b", "annotations": {}})
        .to_string()
}

/// The hard limits of the GPU that has any, in GiB and by cgroup.
fn limits(testbed: &Testbed) -> Vec<(PathBuf, u64)> {
    let profile = testbed.node.profile();
    let mut all = testbed.node.memory_limits().0;
    let of_gpu = all.remove(&profile.gpus[0].uuid).unwrap_or_default();
    assert!(all.is_empty(), "another GPU has limits: {all:?}");
    let told = |(path, limit): (String, Limit)| {
        // What one is sure of would be taken from all others until NVIDIA's driver is told otherwise.
        assert_eq!((limit.soft, limit.hard % GI), (0, 0), "{path}");
        (PathBuf::from(path), limit.hard / GI)
    };
    of_gpu.into_iter().map(told).collect()
}

fn limit(cgroup: &Path, gib: u64) -> (PathBuf, u64) {
    (cgroup.to_owned(), gib)
}
