//! What a container's start waits for: the hook; and the specs of a node with a usual number of libraries.
use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use fake_apiserver::Server;
use ld_cache::{Library, Machine};
use serde_json::{Value, json};

use super::{Report, measure, specs};
use crate::testbed::{Result, Testbed};

const RUNS: usize = 200;
/// As many as NVIDIA's driver 580 has for a data centre.
const LIBRARIES: usize = 60;
/// As many as the loader's cache of a Debian with CUDA's toolkit names.
const CACHED: usize = 1500;
/// The name in the library that stands for all others, which is as long as theirs.
const NAME: &[u8] = b"libcuda.so.1\0";

/// All figures of this part, on a node of its own with a driver of a usual number of libraries.
pub(super) async fn run(report: &mut Report) -> Result<()> {
    let mut testbed = Testbed::without_driver("h100x8", Server::builder()).await?;
    install(&testbed)?;
    testbed.start_driver(&[])?;
    testbed.ready().await?;
    let device = testbed.whole().first().cloned().ok_or("no GPU")?;
    let claim = testbed.allocated("sizes", &[("gpu", &device)]).await?;
    testbed.prepare(&claim).await??;
    let node = fs::read(testbed.node.path("cdi/gpu.aliquot.dev-driver_node.json"))?;
    let claim = fs::read(testbed.specs()?.first().ok_or("the claim has no spec")?)?;
    specs::run(&node, &claim, &testbed.node.path("bench"), report)?;
    let hook = serde_json::from_slice::<Value>(&node)?;
    let times = times(hook.pointer("/devices/0/containerEdits/hooks/0").ok_or("the node's spec has no hook")?)?;
    report.add("hook_p50", "ms", measure::percentile(&times, 50), None, None);
    report.add("hook_p99", "ms", measure::percentile(&times, 99), None, Some(10.0));
    Ok(())
}

/// Puts more libraries beside those of the simulated driver.
fn install(testbed: &Testbed) -> Result<()> {
    let version = &testbed.node.profile().driver_version;
    let dir = format!("driver/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    let dir = testbed.node.path(&dir);
    let mut bytes = fs::read(dir.join(format!("libcuda.so.{version}")))?;
    let at = bytes.windows(NAME.len()).position(|window| window == NAME).ok_or("the library has no name")?;
    let present = fs::read_dir(&dir)?.count();
    for number in present..LIBRARIES {
        let name = format!("libnv{number:02}.so.1");
        bytes.splice(at..at + name.len(), name.bytes());
        fs::write(dir.join(format!("libnv{number:02}.so.{version}")), &bytes)?;
    }
    Ok(())
}

/// Runs of the hook as the spec has it, each in a container that nobody has prepared yet, sorted.
fn times(hook: &Value) -> Result<Vec<f64>> {
    let words: Vec<&str> = hook["args"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let program = hook["path"].as_str().ok_or("the hook has no path")?;
    let libraries: Vec<Library> = (0..CACHED)
        .map(|number| Library {
            name: format!("libimage{number}.so.1"),
            path: format!("/usr/lib/image/libimage{number}.so.1"),
        })
        .collect();
    let cache = ld_cache::merge(None, &libraries, Machine::HERE)?;
    let dir = tempfile::Builder::new().prefix("aliquot-hook").tempdir()?;
    // Beforehand, so that no run waits for what is made or removed for another.
    let bundles: Vec<PathBuf> = (0..RUNS).map(|number| dir.path().join(number.to_string())).collect();
    bundles.iter().try_for_each(|bundle| lay_out(bundle, &cache))?;
    let mut times = Vec::with_capacity(RUNS);
    for bundle in &bundles {
        let begun = Instant::now();
        let output = Command::new(program)
            .args(words.get(1..).unwrap_or_default())
            .env_clear()
            .stdin(fs::File::open(bundle.join("state"))?)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .output()?;
        times.push(measure::milliseconds(begun.elapsed()));
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
        }
    }
    Ok(measure::sorted(times))
}

fn lay_out(bundle: &Path, cache: &[u8]) -> io::Result<()> {
    let rootfs = bundle.join("rootfs");
    let multiarch = format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    for dir in ["etc/ld.so.conf.d", "usr/lib64", &multiarch] {
        fs::create_dir_all(rootfs.join(dir))?;
    }
    fs::write(bundle.join("config.json"), json!({"root": {"path": "rootfs"}}).to_string())?;
    fs::write(bundle.join("state"), json!({"id": "c", "bundle": bundle}).to_string())?;
    fs::write(rootfs.join("etc/ld.so.cache"), cache)
}
