//! The same with what a node really has: the kernel's cgroups, and a container runtime that runs the hook.
use std::time::Duration;

use aliquot_tests::{
    runtime::{ContainerSpec, Containerd, PodSpec, Runtime},
    skip::{skip, toolbox},
};
use fake_apiserver::Server;

use super::*;

/// Directories of the machine's hierarchy of cgroups, with a process; both end with it.
struct Group {
    process: Child,
    /// From the hierarchy's root on.
    path: PathBuf,
    root: PathBuf,
}

impl Group {
    /// Why there can be none here is the other result.
    fn make(pod: &str) -> std::result::Result<Self, String> {
        // Where older hierarchies stand beside it, it has a place of its own.
        let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(PathBuf::from);
        let root = roots.into_iter().find(|root| root.join("cgroup.controllers").is_file());
        let root = root.ok_or("this machine has no cgroup v2")?;
        let process = Command::new("sleep").arg("600").spawn().map_err(|error| error.to_string())?;
        let top = format!("aliquot-test-{}", process.id());
        let path = Path::new(&top).join("kubepods/besteffort").join(format!("pod{pod}")).join("one");
        let group = Self { process, path, root };
        let moved = std::fs::create_dir_all(group.cgroup()).and_then(|()| group.move_to(&group.cgroup()));
        moved.map_err(|error| format!("no cgroup can be made in {}: {error}", group.root.display()))?;
        Ok(group)
    }

    fn move_to(&self, cgroup: &Path) -> std::io::Result<()> {
        std::fs::write(cgroup.join("cgroup.procs"), self.process.id().to_string())
    }

    /// Ends the cgroup and makes one of the same name.
    fn make_anew(&self) -> std::io::Result<()> {
        self.move_to(&self.root)?;
        std::fs::remove_dir(self.cgroup())?;
        std::fs::create_dir(self.cgroup())?;
        self.move_to(&self.cgroup())
    }

    fn cgroup(&self) -> PathBuf {
        self.root.join(&self.path)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        for path in self.path.ancestors().filter(|path| !path.as_os_str().is_empty()) {
            // The kernel may take a moment to let the process go.
            for _ in 0..50 {
                match std::fs::remove_dir(self.root.join(path)) {
                    Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                        std::thread::sleep(Duration::from_millis(10));
                    }
                    _ => break,
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_process_is_limited_in_its_real_cgroup() -> Result<()> {
    let group = match Group::make(POD) {
        Ok(group) => group,
        Err(why) => {
            skip(&why);
            return Ok(());
        }
    };
    let mut testbed = Testbed::without_driver("limits", Server::builder()).await?;
    // The node has the machine's hierarchy, and sees this process.
    std::fs::remove_dir_all(testbed.node.cgroups())?;
    std::os::unix::fs::symlink(&group.root, testbed.node.cgroups())?;
    let pid = group.process.id();
    std::os::unix::fs::symlink(format!("/proc/{pid}"), testbed.node.path("proc").join(pid.to_string()))?;
    // A kubelet of its own, so to speak.
    let top = Path::new("/").join(group.path.components().next().unwrap());
    testbed.start_driver(&[("ALIQUOT_CGROUP_ROOT", top.to_str().unwrap())])?;
    testbed.ready().await?;
    let claim = prepared(&testbed, "claim", HARD, &[8]).await?;
    let other = prepared(&testbed, "other", HARD, &[4]).await?;
    let cgroup = testbed.node.cgroups().join(&group.path);
    hook(&testbed, &claim.ids[0])?.run(pid).unwrap();
    assert_eq!(limits(&testbed), [limit(&cgroup, 8)]);
    group.make_anew()?;
    hook(&testbed, &other.ids[0])?.run(pid).unwrap();
    assert_eq!(limits(&testbed), [limit(&cgroup, 4)], "another container's starts from nothing");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_runs_the_hook_and_starts_no_container_that_it_refuses() -> Result<()> {
    /// containerd's pods have process numbers of their own here, and few of them.
    const PIDS: u32 = 1000;
    let Some(toolbox) = toolbox() else { return Ok(()) };
    let testbed = Testbed::start("limits").await?;
    let dir = tempfile::tempdir()?;
    let (cdi, nodes) = (testbed.node.path("cdi"), testbed.node.path("dev"));
    let containerd = Containerd::start_over(toolbox, &dir.path().join("containerd"), &cdi, &nodes).await?;
    let claim = prepared(&testbed, "claim", HARD, &[8]).await?;
    let container =
        ContainerSpec { name: "one".to_owned(), cdi_devices: claim.ids.clone(), ..ContainerSpec::default() };
    let error = containerd.run_pod("refused", std::slice::from_ref(&container)).await.unwrap_err().to_string();
    assert!(error.contains("hook"), "{error}");
    assert!(testbed.log().contains("hostPID"), "the runtime has run it: {}", testbed.log());
    assert_eq!(limits(&testbed), []);
    let mut cgroup = PathBuf::new();
    for pid in 1..PIDS {
        cgroup = testbed.node.place_container(pid, POD, "one")?;
    }
    let pod = containerd.run_pod("limited", std::slice::from_ref(&container)).await?;
    assert!(pod.is_running("one").await?);
    assert_eq!(limits(&testbed), [limit(&cgroup, 8)]);
    // This hook is the host's also where the pod's users are others on the host.
    for runtime in Runtime::ALL {
        let other = prepared(&testbed, runtime.name(), HARD, &[4]).await?;
        let all = vec![ContainerSpec { cdi_devices: other.ids, ..container.clone() }];
        let name = runtime.name().to_owned();
        let pod = containerd
            .run(&PodSpec { name, runtime, user_namespace: true, containers: all, ..PodSpec::default() })
            .await?;
        assert!(pod.is_running("one").await?);
    }
    Ok(())
}
