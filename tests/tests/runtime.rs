//! A real containerd: a container gets what its CDI devices say, and another one nothing of it.
use std::{
    error::Error,
    fs,
    io::Read,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use aliquot_tests::{
    debian::Toolbox,
    runtime::{ContainerSpec, Containerd, Pod},
    skip::toolbox,
};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use serde_json::json;

type TestResult = Result<(), Box<dyn Error>>;

/// The loop devices' control: harmless, on most machines, and in no container unless it is asked for.
const DEVICE: (u32, u32) = (10, 237);

/// A containerd with one CDI device, `example.com/thing=one`.
struct Node {
    containerd: Containerd,
    dir: tempfile::TempDir,
}

impl Node {
    async fn start(toolbox: &Toolbox) -> Result<Self, Box<dyn Error>> {
        let dir = tempfile::tempdir()?;
        let cdi = dir.path().join("cdi");
        fs::create_dir(&cdi)?;
        let device = dir.path().join("thing0");
        let number = makedev(DEVICE.0, DEVICE.1);
        mknodat(CWD, &device, FileType::CharacterDevice, Mode::RUSR, number)?;
        let spec = json!({
            "cdiVersion": "0.6.0",
            "kind": "example.com/thing",
            "devices": [{"name": "one", "containerEdits": {
                "env": ["THING=one"],
                "deviceNodes": [{"path": "/dev/thing0", "hostPath": device}],
                "mounts": [{
                    "hostPath": std::env::current_exe()?,
                    "containerPath": "/usr/bin/suite",
                    "options": ["ro", "bind"],
                }],
            }}],
        });
        fs::write(cdi.join("thing.json"), spec.to_string())?;
        let containerd = Containerd::start(toolbox, &dir.path().join("containerd"), &cdi).await?;
        Ok(Self { containerd, dir })
    }

    async fn pod(&self) -> Result<Pod, Box<dyn Error>> {
        let with = ContainerSpec {
            name: "with".to_owned(),
            cdi_devices: vec!["example.com/thing=one".to_owned()],
            ..ContainerSpec::default()
        };
        let without = ContainerSpec { name: "without".to_owned(), ..ContainerSpec::default() };
        Ok(self.containerd.run_pod("pod", &[with, without]).await?)
    }
}

async fn shell(pod: &Pod, container: &str, line: &str) -> Result<(i32, String), Box<dyn Error>> {
    let output = pod.exec(container, &["sh", "-c", line]).await?;
    Ok((output.status, output.stdout + &output.stderr))
}

#[tokio::test]
async fn a_container_has_its_device_and_another_in_the_pod_has_not() -> TestResult {
    let Some(toolbox) = toolbox() else { return Ok(()) };
    let node = Node::start(toolbox).await?;
    let pod = node.pod().await?;

    let seen = shell(&pod, "with", "stat -c '%t:%T' /dev/thing0; echo $THING").await?;
    assert_eq!(seen, (0, "a:ed\none\n".to_owned()));
    let (_, opened) = shell(&pod, "with", ": </dev/thing0").await?;
    assert!(!opened.contains("not permitted"), "{opened}");

    let seen = shell(&pod, "without", "ls /dev/thing0 2>/dev/null; echo ${THING-none}").await?;
    assert_eq!(seen, (0, "none\n".to_owned()));
    let (status, opened) = shell(&pod, "without", "mknod /tmp/thing0 c 10 237 && : </tmp/thing0").await?;
    assert!(status != 0 && opened.contains("not permitted"), "{status} {opened}");

    assert!(pod.is_running("with").await? && pod.is_running("without").await?);
    pod.remove().await?;
    Ok(())
}

#[tokio::test]
async fn a_program_of_this_machine_that_cdi_mounts_runs() -> TestResult {
    let Some(toolbox) = toolbox() else { return Ok(()) };
    let node = Node::start(toolbox).await?;
    let pod = node.pod().await?;
    let (status, list) = shell(&pod, "with", "suite --list").await?;
    assert!(status == 0 && list.contains("that_cdi_mounts_runs: test"), "{status} {list}");
    Ok(())
}

#[tokio::test]
async fn an_unknown_device_fails_the_pod_by_its_name() -> TestResult {
    let Some(toolbox) = toolbox() else { return Ok(()) };
    let node = Node::start(toolbox).await?;
    let container = ContainerSpec {
        name: "main".to_owned(),
        cdi_devices: vec!["example.com/thing=two".to_owned()],
        ..ContainerSpec::default()
    };
    let error = node.containerd.run_pod("pod", &[container]).await.unwrap_err().to_string();
    assert!(error.starts_with("CreateContainer: ") && error.contains("example.com/thing=two"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_privileged_container_has_every_device() -> TestResult {
    let Some(toolbox) = toolbox() else { return Ok(()) };
    let node = Node::start(toolbox).await?;
    let container = ContainerSpec { name: "main".to_owned(), privileged: true, ..ContainerSpec::default() };
    let pod = node.containerd.run_pod("pod", &[container]).await?;
    let (_, opened) = shell(&pod, "main", "mknod /tmp/thing0 c 10 237 && : </tmp/thing0").await?;
    assert!(!opened.contains("not permitted"), "{opened}");
    Ok(())
}

#[tokio::test]
async fn a_dropped_containerd_leaves_no_process_mount_or_control_group() -> TestResult {
    let Some(toolbox) = toolbox() else { return Ok(()) };
    let node = Node::start(toolbox).await?;
    let pod = node.pod().await?;
    let socket = node.containerd.socket().to_owned();
    let group = control_groups()?.join(node.containerd.control_group());
    let Node { containerd, dir } = node;
    let path = dir.path().canonicalize()?;
    assert!(group.exists(), "{}", group.display());
    assert!(!processes_of(&path)?.is_empty());

    drop(containerd);

    drop(pod);
    assert!(UnixStream::connect(&socket).is_err());
    assert!(!group.exists(), "{}", group.display());
    assert_eq!(processes_of(&path)?, Vec::<PathBuf>::new());
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    assert!(!mounts.contains(path.to_str().expect("a temporary directory's path is UTF-8")));
    dir.close()?;
    Ok(())
}

/// Names the directory of a suite that is to be killed, in the process that is to be it.
const VICTIM: &str = "ALIQUOT_RUNTIME_VICTIM";

#[tokio::test]
async fn a_killed_suite_takes_its_containerd_along() -> TestResult {
    let Some(toolbox) = toolbox() else { return Ok(()) };
    if let Some(dir) = std::env::var_os(VICTIM) {
        let dir = PathBuf::from(dir);
        let containerd = Containerd::start(toolbox, &dir.join("containerd"), &dir.join("cdi")).await?;
        let _pod = containerd.run_pod("pod", &[ContainerSpec::default()]).await?;
        fs::write(dir.join("runs"), "")?;
        return std::future::pending().await;
    }
    let dir = tempfile::tempdir()?;
    let mut suite = Command::new(std::env::current_exe()?)
        .arg("a_killed_suite_takes_its_containerd_along")
        .env(VICTIM, dir.path())
        .stdout(Stdio::null())
        .spawn()?;
    let path = dir.path().canonicalize()?;
    within_seconds(20, || Ok(path.join("runs").exists())).await?;
    assert!(!processes_of(&path)?.is_empty());

    suite.kill()?;

    suite.wait()?;
    within_seconds(5, || Ok(processes_of(&path)?.is_empty())).await
}

async fn within_seconds(limit: u64, condition: impl Fn() -> Result<bool, Box<dyn Error>>) -> TestResult {
    let deadline = Instant::now() + Duration::from_secs(limit);
    while !condition()? {
        if Instant::now() > deadline {
            return Err(format!("not so within {limit} s").into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Where this machine has the version 2 hierarchy of control groups.
fn control_groups() -> Result<PathBuf, Box<dyn Error>> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mut fields = mounts.lines().map(|line| line.split(' '));
    let place = fields.find_map(|mut line| line.nth(1).filter(|_| line.next() == Some("cgroup2")));
    Ok(place.ok_or("no cgroup2 is mounted")?.into())
}

/// Processes whose command line names the directory.
fn processes_of(dir: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let needle = dir.to_str().ok_or("no UTF-8")?;
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let mut line = Vec::new();
        let read = fs::File::open(path.join("cmdline")).and_then(|mut file| file.read_to_end(&mut line));
        if read.is_ok() && String::from_utf8_lossy(&line).contains(needle) {
            found.push(path);
        }
    }
    Ok(found)
}
