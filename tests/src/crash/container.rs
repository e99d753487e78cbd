//! The part of a container's start that the driver has a hand in: the hook that has its memory limited.
use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use kubelet_api::dra::v1::Claim;
use serde_json::{Value, json};

use super::stage::Stage;
use crate::testbed::{Result, files};

/// Some pod's UID.
const POD: &str = "3f0e8a52-6c1d-4f37-9b0a-52d1f7c8e640";

/// Runs the hook of the claim's share on a new container; whether it was told of a limit.
pub(super) fn start(stage: &Stage, claim: &Claim) -> Result<bool> {
    let node = &stage.testbed.node;
    let specs = files(&node.path("cdi"))?;
    let ours = specs.iter().find(|path| path.to_string_lossy().contains(&claim.uid)).ok_or("the claim has no spec")?;
    let spec: Value = serde_json::from_slice(&std::fs::read(ours)?)?;
    let mut devices = spec["devices"].as_array().into_iter().flatten();
    let hook = devices.find_map(|device| device.pointer("/containerEdits/hooks/0")).ok_or("the share has no hook")?;
    let texts = |name: &str| -> Vec<String> {
        let list = hook[name].as_array().into_iter().flatten();
        list.filter_map(|one| one.as_str().map(ToOwned::to_owned)).collect()
    };
    let pid = std::process::id();
    let cgroup = node.place_container(pid, POD, &uuid::Uuid::new_v4().to_string())?;
    let env = texts("env");
    let mut process = Command::new(hook["path"].as_str().unwrap_or_default())
        .args(texts("args").iter().skip(1))
        .env_clear()
        .envs(env.iter().filter_map(|variable| variable.split_once('=')))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let told = json!({"ociVersion": "1.2.0", "id": "c", "status": "creating", "pid": pid, "bundle": "/b"});
    if let Some(mut input) = process.stdin.take() {
        // It may have ended without reading.
        let _ = input.write_all(told.to_string().as_bytes());
    }
    let is_told = process.wait()?.success();
    let limits = node.memory_limits().0;
    let limit = limits.values().find_map(|cgroups| cgroups.get(cgroup.to_str()?)).map(|limit| limit.hard);
    if is_told && limit != Some(8 << 30) {
        return Err(format!("the hook was told of a limit, and there is {limit:?}").into());
    }
    Ok(is_told)
}
