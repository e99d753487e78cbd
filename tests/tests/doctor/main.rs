//! The doctor: a node where all is well, and each thing that can be wrong, with its check and how to mend it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod cluster;
mod node;

use std::{collections::BTreeMap, fs, process::Output};

use aliquot_tests::testbed::{NODE, Result, Testbed};
use fake_apiserver::{Builder, Server};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

/// A node with all that it needs, and the doctor's own view of its container runtime.
async fn node(profile: &str, api: Builder) -> Result<Testbed> {
    let testbed = Testbed::without_driver(profile, api).await?;
    let version = &testbed.node.profile().driver_version;
    fs::create_dir_all(testbed.node.path("proc/driver/nvidia"))?;
    let module = format!("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {version}  Release Build  (x@y)\n");
    fs::write(testbed.node.path("proc/driver/nvidia/version"), module)?;
    let dirs = format!("cdi_spec_dirs = ['/etc/cdi', '{}']\n", testbed.node.path("cdi").display());
    containerd(&testbed, &dirs)?;
    Ok(testbed)
}

async fn well() -> Result<Testbed> {
    node("h100x8", Server::builder()).await
}

fn containerd(testbed: &Testbed, settings: &str) -> Result<()> {
    let config = format!("version = 3\n[plugins.'io.containerd.cri.v1.runtime']\n{settings}");
    Ok(fs::write(testbed.node.path("containerd.toml"), config)?)
}

fn run(testbed: &Testbed, arguments: &[&str], environment: &[(&str, &str)]) -> Result<Output> {
    let mut command = testbed.driver_command("doctor");
    command.args(arguments).env("ALIQUOT_CONTAINERD_CONFIG", testbed.node.path("containerd.toml"));
    // The testbed's own is below a directory that is closed to others.
    command.env("ALIQUOT_HOOK_ROOT", "/aliquot-is-not-here");
    command.env("ALIQUOT_CRIO_CONFIG", testbed.node.path("crio.conf")).envs(environment.iter().copied());
    Ok(command.output()?)
}

/// The exit code, and all checks by name as verdict, what was found, and the fix.
type Report = (i32, BTreeMap<String, (String, String, String)>);

fn report(output: &Output) -> Result<Report> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let report: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("{error}: {}", String::from_utf8_lossy(&output.stderr)))?;
    let checks = report["checks"].as_array().ok_or("no checks")?;
    let checks = checks
        .iter()
        .map(|check| (text(&check["name"]), (text(&check["verdict"]), text(&check["found"]), text(&check["fix"]))));
    Ok((output.status.code().unwrap_or(-1), checks.collect()))
}

fn examine(testbed: &Testbed, environment: &[(&str, &str)]) -> Result<Report> {
    report(&run(testbed, &["-o", "json"], environment)?)
}

/// One check fails or warns, its fix says what is to be said, and the exit code follows.
#[track_caller]
fn assert_told(report: &Report, name: &str, verdict: &str, fix: &str) {
    let (code, checks) = report;
    let (found_verdict, found, found_fix) = &checks[name];
    assert_eq!(found_verdict, verdict, "{name}: {found}");
    assert!(found_fix.contains(fix), "{name}: {found}; {found_fix}");
    assert!(verdict != "failed" || *code == 1, "{code}");
}

/// Nothing else is wrong than these.
#[track_caller]
fn assert_else_well(report: &Report, but: &[&str]) {
    for (name, (verdict, found, _)) in &report.1 {
        assert!(
            but.contains(&name.as_str()) || ["ok", "skipped"].contains(&verdict.as_str()),
            "{name}: {verdict}: {found}"
        );
    }
}

async fn set_status(testbed: &Testbed, status: Value) -> Result<()> {
    let nodes: Api<Node> = Api::all(testbed.client.clone());
    nodes.patch_status(NODE, &PatchParams::default(), &Patch::Merge(&json!({"status": status}))).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_where_all_is_well_passes_every_check_and_nothing_is_written() -> Result<()> {
    let testbed = well().await?;
    // The kubelet deletes slices that were there before it.
    let writes = || {
        let is_write = |verb: &str| ["create", "update", "patch"].contains(&verb);
        testbed.api.requests().into_iter().filter(|((verb, _), _)| is_write(verb)).collect::<BTreeMap<_, _>>()
    };
    let before = writes();
    let (code, checks) = examine(&testbed, &[])?;
    // Where nodes can't be made, plain files stand for them.
    let is_real = checks["device-nodes"].0 == "ok";
    for (name, (verdict, found, fix)) in &checks {
        // Without a policy file, and as a person.
        let expected = if ["policy", "admission-policy"].contains(&name.as_str()) { "skipped" } else { "ok" };
        assert!(verdict == expected || (name == "device-nodes" && !is_real), "{name}: {verdict}: {found}");
        assert!(fix.is_empty() || verdict != "ok", "{name}: {fix}");
    }
    assert_eq!(code, i32::from(!is_real));
    assert_eq!(checks["gpus"].1, "8 × NVIDIA H100 80GB HBM3");
    assert_eq!(writes(), before);
    assert!(fs::read_dir(testbed.node.path("cdi"))?.next().is_none());
    let text = String::from_utf8(run(&testbed, &[], &[])?.stdout)?;
    assert!(text.contains("\nok       permissions"), "{text}");
    assert!(text.trim_end().lines().last().unwrap().starts_with("node1: "), "{text}");
    // Every name is one that operators can look up.
    let guide = include_str!("../../../docs/operators.md");
    for name in checks.keys().map(String::as_str).chain(["files"]) {
        assert!(guide.contains(&format!("| `{name}`")), "{name} isn't in docs/operators.md");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_command_line_ends_with_2() -> Result<()> {
    let testbed = well().await?;
    assert_eq!(run(&testbed, &["--nonsense"], &[])?.status.code(), Some(2));
    let output = run(&testbed, &[], &[("NODE_NAME", "No Node")])?;
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty() && !output.stderr.is_empty());
    Ok(())
}
