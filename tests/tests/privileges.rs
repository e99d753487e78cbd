//! What the driver may do on the node, what it gives up of it, and what it does without: any capability, and any file that
//! isn't its own.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt as _, path::Path};

use aliquot_tests::{
    runtime::{ContainerSpec, Containerd},
    skip::toolbox,
    testbed::{DRIVER, NODE, Result, Testbed},
};
use fake_apiserver::Server;
use serde_json::json;

const GPU: &str = "gpu-0000-1b-00";

/// Root without any capability, as in a container with `capabilities: {drop: [ALL]}` and `allowPrivilegeEscalation: false`.
const BARE: [&str; 4] = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"];

/// As the kernel names them, `proc_pid_status(5)`.
const SETS: [&str; 5] = ["CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb"];

const KILL: u64 = 1 << 5;
const SYS_ADMIN: u64 = 1 << 21;

/// A driver that has none, with a claim to a whole GPU and one to a share with a time slice.
async fn bare() -> Result<(Testbed, u32)> {
    let mut testbed = Testbed::without_driver("h100x8", Server::builder()).await?;
    let pid = testbed.start_driver_by(&BARE)?;
    testbed.ready().await?;
    let whole = testbed.allocated("whole", &[("gpu", GPU)]).await?;
    testbed.prepare(&whole).await?.unwrap();
    let slicing = json!({"apiVersion": "gpu.aliquot.dev/v1alpha1", "kind": "ShareConfig", "sharing":
        {"strategy": "TimeSlicing", "timeSlicingConfig": {"interval": "Short", "required": true}}});
    let share = json!({"devices": {
        "results": [{"driver": DRIVER, "pool": format!("{DRIVER}/{NODE}"), "device": "gpu-0000-43-00-shared", "request": "gpu",
            "shareID": "96214200-eeea-4c04-a79e-e6ec66d642e2", "consumedCapacity": {"shares": "1", "memory": "8Gi"}}],
        "config": [{"source": "FromClaim", "requests": [], "opaque": {"driver": DRIVER, "parameters": slicing}}],
    }});
    let share = testbed.allocated_as("share", share).await?;
    testbed.prepare(&share).await?.unwrap();
    Ok((testbed, pid))
}

fn status(pid: u32) -> BTreeMap<String, String> {
    fields(&fs::read_to_string(format!("/proc/{pid}/status")).unwrap())
}

fn fields(text: &str) -> BTreeMap<String, String> {
    let fields = text.lines().filter_map(|line| line.split_once(":\t"));
    fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_driver_needs_no_capability_to_prepare_claims_and_set_time_slices() -> Result<()> {
    let (testbed, pid) = bare().await?;
    let status = status(pid);
    for set in SETS {
        assert_eq!(u64::from_str_radix(&status[set], 16), Ok(0), "{set}");
    }
    assert_eq!((status["NoNewPrivs"].as_str(), status["Name"].as_str()), ("1", "aliquot-driver"));
    assert_eq!(testbed.node.time_slices().len(), 1);
    assert!(testbed.node.path("kubelet/plugins").join(DRIVER).join("aliquot-hook").is_file());
    Ok(())
}

/// What each of a process's threads has, as bits (`linux/capability.h`), and whether it may gain more.
fn threads(pid: u32) -> Vec<(BTreeMap<String, u64>, bool)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let threads = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("status")).ok());
    let of = |text: String| {
        let status = fields(&text);
        let sets = SETS.iter().map(|set| ((*set).to_owned(), u64::from_str_radix(&status[*set], 16).unwrap()));
        (sets.collect(), status["NoNewPrivs"] == "1")
    };
    threads.map(of).collect()
}

/// A driver that is started with all that root has, and told what to keep of it.
async fn keeping(environment: &[(&str, &str)]) -> Result<Vec<(BTreeMap<String, u64>, bool)>> {
    let testbed = Testbed::without_driver("t4x1", Server::builder()).await?;
    let mut child = testbed.another_driver(environment)?;
    testbed.ready().await?;
    let threads = threads(child.id());
    child.kill()?;
    child.wait()?;
    Ok(threads)
}

fn of_this_process(set: &str) -> u64 {
    u64::from_str_radix(&status(std::process::id())[set], 16).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_what_root_may_every_thread_of_the_driver_keeps_two_capabilities() -> Result<()> {
    // NVML's thread is one of them.
    let may_drop = of_this_process("CapEff") & (1 << 8) != 0;
    let threads = keeping(&[]).await?;
    assert!(threads.len() > 1);
    for (sets, no_new_privileges) in threads {
        let kept = of_this_process("CapPrm") & (KILL | SYS_ADMIN);
        assert_eq!((sets["CapEff"], sets["CapPrm"], sets["CapInh"], sets["CapAmb"]), (kept, kept, 0, 0));
        assert!(no_new_privileges);
        assert!(!may_drop || sets["CapBnd"] == of_this_process("CapBnd") & (KILL | SYS_ADMIN), "{sets:x?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_is_told_to_keeps_nothing_and_serves_all_the_same() -> Result<()> {
    for (sets, no_new_privileges) in keeping(&[("ALIQUOT_KEEP_CAPABILITIES", "")]).await? {
        assert_eq!((sets["CapEff"], sets["CapPrm"], no_new_privileges), (0, 0, true));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_the_driver_has_open_is_its_own() -> Result<()> {
    let (testbed, pid) = bare().await?;
    has_only_its_own_open(&testbed, pid)
}

fn has_only_its_own_open(testbed: &Testbed, pid: u32) -> Result<()> {
    let own = |path: &Path| {
        let places = ["run", "cdi", "kubelet/plugins", "kubelet/plugins_registry"].map(|dir| testbed.node.path(dir));
        // NVML has the GPUs open as long as it has a session.
        let is_gpu = path.parent() == Some(&testbed.node.path("dev"))
            && path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("nvidia"));
        places.iter().any(|place| path.starts_with(place)) || path == Path::new("/dev/null") || is_gpu
    };
    // What it is given by whoever starts it comes first.
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        let number: u32 = entry.file_name().to_str().unwrap().parse()?;
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let text = target.to_str().unwrap();
        let is_anonymous = ["socket:[", "pipe:[", "anon_inode:"].iter().any(|kind| text.starts_with(kind));
        assert!(number <= 2 || is_anonymous || own(&target), "descriptor {number} is {text}");
    }
    Ok(())
}

/// The driver's process in a container, by the files that it was given.
fn process_of(testbed: &Testbed) -> Option<u32> {
    let mark = format!("ALIQUOT_RUN_ROOT={}", testbed.node.path("run").display());
    let pids = fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut drivers = pids.filter(|pid: &u32| {
        let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        read("comm") == b"aliquot-driver\n"
            && read("environ").split(|byte| *byte == 0).any(|one| one == mark.as_bytes())
    });
    drivers.next()
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_privileged_container_it_keeps_what_its_manifest_says_and_has_its_own_files_open() -> Result<()> {
    let Some(toolbox) = toolbox() else { return Ok(()) };
    let testbed = Testbed::without_driver("a100x4", Server::builder()).await?;
    let driver = testbed.driver_command("run");
    let program = Path::new(driver.get_program());
    let shared = testbed.kubeconfig().parent().ok_or("no directory")?.to_owned();
    let mount = |from: &Path, to: &Path| json!({"hostPath": from, "containerPath": to, "options": ["rbind", "rw"]});
    // The stand-in for the API server has no certificate, so that the client wants the system's.
    let certificates = Path::new("/etc/ssl");
    let mounts = [
        mount(&shared, &shared),
        mount(program, Path::new("/usr/bin/aliquot-driver")),
        mount(certificates, certificates),
    ];
    let spec = json!({"cdiVersion": "0.6.0", "kind": "tests.aliquot.dev/files",
        "devices": [{"name": "all", "containerEdits": {"mounts": mounts}}]});
    let dir = tempfile::tempdir()?;
    let cdi = dir.path().join("cdi");
    fs::create_dir(&cdi)?;
    fs::write(cdi.join("files.json"), spec.to_string())?;
    let containerd = Containerd::start(toolbox, &dir.path().join("containerd"), &cdi).await?;
    let container = ContainerSpec {
        name: "driver".to_owned(),
        cdi_devices: vec!["tests.aliquot.dev/files=all".to_owned()],
        privileged: true,
        ..ContainerSpec::default()
    };
    let pod = containerd.run_pod("driver", &[container]).await?;
    // As deploy/base/daemonset.yaml has it.
    let mut line: Vec<String> = vec!["env".to_owned(), "ALIQUOT_KEEP_CAPABILITIES=sys_admin".to_owned()];
    line.push("ALIQUOT_HOOK=".to_owned());
    for (name, value) in driver.get_envs().filter_map(|(name, value)| Some((name.to_str()?, value?.to_str()?))) {
        line.push(format!("{name}={value}"));
    }
    line.extend(["aliquot-driver".to_owned(), "run".to_owned()]);
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    let looked_at = async {
        testbed.ready().await?;
        testbed.until("GPUs are seen", || testbed.whole().len() == 4).await?;
        let pid = process_of(&testbed).ok_or("the driver isn't found")?;
        let threads = threads(pid);
        assert!(threads.len() > 1);
        for (sets, no_new_privileges) in threads {
            assert_eq!(SETS.map(|set| sets[set]), [SYS_ADMIN, SYS_ADMIN, 0, SYS_ADMIN, 0]);
            assert!(no_new_privileges);
        }
        has_only_its_own_open(&testbed, pid)
    };
    tokio::select! {
        ended = pod.exec("driver", &line) => return Err(format!("the driver ended: {ended:?}").into()),
        done = looked_at => done?,
    }
    pod.remove().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn records_and_sockets_are_for_nobody_else() -> Result<()> {
    let (testbed, _) = bare().await?;
    let mode = |path: &Path| fs::symlink_metadata(path).map(|meta| meta.mode() & 0o777);
    let records = testbed.records()?;
    assert_eq!(records.len(), 2);
    for record in &records {
        assert_eq!(mode(record)?, 0o600, "{}", record.display());
    }
    let plugin = testbed.node.path("kubelet/plugins").join(DRIVER);
    let sockets = [
        plugin.join("dra.sock"),
        plugin.join("limits.sock"),
        testbed.node.path("kubelet/plugins_registry").join(format!("{DRIVER}-reg.sock")),
    ];
    for socket in sockets.iter().filter(|socket| socket.exists()) {
        assert_eq!(mode(socket)? & 0o077, 0, "{}", socket.display());
    }
    assert!(sockets[0].exists());
    // Containers' runtimes read these, and nobody but the driver writes them.
    for spec in testbed.specs()? {
        assert_eq!(mode(&spec)?, 0o644, "{}", spec.display());
    }
    Ok(())
}
