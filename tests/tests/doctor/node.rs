//! What can be wrong on the node itself.
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    time::{Duration, Instant},
};

use aliquot_tests::{skip::skip, testbed::Result};
use fake_apiserver::Server;
use fake_nvml::Control;
use serde_json::json;

use super::{assert_else_well, assert_told, containerd, examine, node, report, set_status, well};

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_installation_that_is_away_damaged_or_of_another_version_is_told() -> Result<()> {
    let testbed = well().await?;
    let version = testbed.node.path("proc/driver/nvidia/version");
    fs::write(&version, "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.82.01  Wed Oct 27 21:21:55 UTC 2021\n")?;
    let report = examine(&testbed, &[])?;
    assert_told(&report, "kernel-module", "failed", "reboot");
    assert_else_well(&report, &["kernel-module", "device-nodes"]);

    let libraries = testbed.node.path("driver/usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH));
    for entry in fs::read_dir(&libraries)?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("libcuda") {
            fs::remove_file(entry.path())?;
        }
    }
    assert_told(&examine(&testbed, &[])?, "driver-root", "failed", "--driver-root");

    // The kernel module isn't loaded, which hides nothing of the rest.
    fs::remove_file(&version)?;
    testbed.node.control(&Control { init: Some(9), ..Control::default() })?;
    let report = examine(&testbed, &[])?;
    assert_told(&report, "nvml", "failed", "modprobe nvidia");
    assert_told(&report, "kernel-module", "failed", "modprobe nvidia");
    assert_told(&report, "driver-root", "failed", "--driver-root");
    assert_eq!(report.1["dra-features"].0, "skipped");

    fs::rename(testbed.node.path("driver"), testbed.node.path("away"))?;
    assert_told(&examine(&testbed, &[])?, "nvml", "failed", "--driver-root");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn gpus_that_fail_or_hang_are_told_in_time() -> Result<()> {
    let testbed = node("failing", Server::builder()).await?;
    assert_told(&examine(&testbed, &[])?, "gpus", "failed", "Xid");
    let testbed = well().await?;
    let hang = [("nvmlDeviceGetUUID".to_owned(), 60_000)].into();
    testbed.node.control(&Control { hang, ..Control::default() })?;
    let begun = Instant::now();
    let report = examine(&testbed, &[("ALIQUOT_NVML_DEADLINE", "300ms")])?;
    assert_told(&report, "nvml", "failed", "kernel's log");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_modules_and_left_over_nodes_are_told() -> Result<()> {
    let testbed = well().await?;
    fs::write(testbed.node.path("proc/devices"), "Character devices:\n195 nvidia\n\nBlock devices:\n")?;
    assert_told(&examine(&testbed, &[])?, "device-numbers", "failed", "modprobe nvidia-uvm");
    let control = testbed.node.path("dev/nvidiactl");
    fs::remove_file(&control)?;
    fs::write(&control, "")?;
    assert_told(&examine(&testbed, &[])?, "device-nodes", "failed", "nvidia-modprobe");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_is_missing_or_unfit_or_could_not_be_started_is_told() -> Result<()> {
    let testbed = well().await?;
    let missing = examine(&testbed, &[("ALIQUOT_HOOK", "/nowhere/aliquot-hook")])?;
    assert_told(&missing, "hook", "warning", "beside aliquot-driver");
    assert_told(&examine(&testbed, &[("ALIQUOT_HOOK", "/bin/sh")])?, "hook", "warning", "static aliquot-hook");
    assert_eq!(examine(&testbed, &[("ALIQUOT_HOOK", "")])?.1["hook"].0, "skipped");

    let inside = testbed.driver_command("doctor");
    let script = "mount -t tmpfs -o noexec none \"$1\" && mkdir \"$1/plugins\" \"$1/plugins_registry\" || exit 77; \
                  shift; exec \"$@\" -o json";
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(testbed.node.path("kubelet")).arg(inside.get_program());
    command.args(inside.get_args()).envs(inside.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command.output()?;
    if output.stdout.is_empty() {
        skip("a file system can't be mounted here");
        return Ok(());
    }
    assert_told(&report(&output)?, "hook-exec", "failed", "remount,exec");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_that_are_not_what_they_should_be_are_told() -> Result<()> {
    let testbed = well().await?;
    let report = examine(&testbed, &[("ALIQUOT_KUBELET_ROOT", "/nowhere")])?;
    assert_told(&report, "kubelet-directories", "failed", "--kubelet-root");
    assert_told(&report, "other-drivers", "warning", "pod-resources");
    assert!(report.1["other-drivers"].1.contains("/nowhere/pod-resources/kubelet.sock"), "{:?}", report.1);
    let closed = testbed.node.path("closed");
    fs::create_dir(&closed)?;
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o750))?;
    let report = examine(&testbed, &[("ALIQUOT_HOOK_ROOT", closed.to_str().unwrap())])?;
    assert_told(&report, "hook-root", "warning", "--hook-root");
    assert!(fs::read_dir(&closed)?.next().is_none(), "nothing is made");
    let cdi = testbed.node.path("cdi/example.com-t.json");
    fs::write(&cdi, r#"{"cdiVersion": "0.5.0", "kind": "example.com/t", "devices": []}"#)?;
    let report = examine(&testbed, &[])?;
    assert_told(&report, "cdi-directory", "failed", &format!("remove {}", cdi.display()));
    fs::remove_file(&cdi)?;
    let file = testbed.node.path("cdi-file");
    fs::write(&file, "")?;
    let report = examine(&testbed, &[("ALIQUOT_CDI_ROOT", file.to_str().unwrap())])?;
    assert_told(&report, "cdi-directory", "failed", "--cdi-root");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_without_cdi_or_with_other_directories_is_told() -> Result<()> {
    let testbed = well().await?;
    containerd(&testbed, "enable_cdi = false\n")?;
    assert_told(&examine(&testbed, &[])?, "container-runtime", "failed", "enable_cdi = true");
    containerd(&testbed, "cdi_spec_dirs = ['/etc/cdi']\n")?;
    assert_told(&examine(&testbed, &[])?, "container-runtime", "failed", "cdi_spec_dirs");
    set_status(&testbed, json!({"nodeInfo": {"containerRuntimeVersion": "containerd://1.7.27"}})).await?;
    fs::write(testbed.node.path("containerd.toml"), "version = 2\n")?;
    assert_told(&examine(&testbed, &[])?, "container-runtime", "failed", "io.containerd.grpc.v1.cri");
    set_status(&testbed, json!({"nodeInfo": {"containerRuntimeVersion": "cri-o://1.34.1"}})).await?;
    fs::write(testbed.node.path("crio.conf"), "[crio.runtime]\ncdi_spec_dirs = ['/etc/cdi']\n")?;
    assert_told(&examine(&testbed, &[])?, "container-runtime", "failed", "crio");
    let dirs = format!("[crio.runtime]\ncdi_spec_dirs = ['{}']\n", testbed.node.path("cdi").display());
    fs::create_dir(testbed.node.path("crio.conf.d"))?;
    fs::write(testbed.node.path("crio.conf.d/10-cdi.conf"), dirs)?;
    assert_eq!(examine(&testbed, &[])?.1["container-runtime"].0, "ok");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_judged_as_the_driver_would() -> Result<()> {
    let testbed = well().await?;
    let file = testbed.node.path("policy.yaml");
    let environment = [("ALIQUOT_POLICY", file.to_str().unwrap())];
    let policy =
        |rules: &str| fs::write(&file, format!("apiVersion: gpu.aliquot.dev/v1alpha1\nkind: Policy\nrules:\n{rules}"));
    policy("- offer: [whole]\n")?;
    assert_eq!(examine(&testbed, &environment)?.1["policy"].0, "ok");
    policy("- offer: [halves]\n")?;
    let report = examine(&testbed, &environment)?;
    assert_told(&report, "policy", "failed", "aliquot-driver policy check");
    assert_eq!(report.1["dra-features"].0, "skipped");
    policy("- offer: [whole, shares]\n  shares: {count: 4, memory: 999Gi}\n")?;
    assert_told(&examine(&testbed, &environment)?, "policy", "failed", "correct the file");
    Ok(())
}
