//! Pods whose users are others on the host (`hostUsers: false`): the hook runs in their user namespace.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use aliquot_tests::{
    runtime::{ContainerSpec, Containerd, Pod, PodSpec, Runtime},
    skip::toolbox,
    testbed::{DRIVER, NODE_DEVICE, Result, Testbed},
};
use fake_apiserver::Server;
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

const GPU: &str = "gpu-0000-07-00";

/// A node whose hook is installed below a directory, and a containerd whose directories are open as the usual ones are.
struct Stage {
    containerd: Containerd,
    testbed: Testbed,
    ids: Vec<String>,
    dir: tempfile::TempDir,
}

impl Stage {
    /// None where there are no containers. `mode`: of a directory above the hook's.
    async fn set(mode: u32) -> Result<Option<Self>> {
        let Some(toolbox) = toolbox() else { return Ok(None) };
        let dir =
            tempfile::Builder::new().prefix("aliquot").permissions(fs::Permissions::from_mode(0o755)).tempdir()?;
        let hooks = dir.path().join("hooks");
        fs::create_dir(&hooks)?;
        fs::set_permissions(&hooks, fs::Permissions::from_mode(mode))?;
        let mut testbed = Testbed::without_driver("a100x4", Server::builder()).await?;
        // Runtimes mount nodes from the host where none can be made, and a host has this one.
        let tools = testbed.node.path("dev/nvidia-uvm-tools");
        mknodat(CWD, &tools, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(511, 1))?;
        fs::set_permissions(&tools, fs::Permissions::from_mode(0o666))?;
        testbed.start_driver(&[("ALIQUOT_HOOK_ROOT", hooks.to_str().unwrap())])?;
        testbed.ready().await?;
        let claim = testbed.allocated("claim", &[("gpu", GPU)]).await?;
        let ids = [vec![NODE_DEVICE.to_owned()], testbed.prepare(&claim).await?.unwrap()].concat();
        let (cdi, nodes) = (testbed.node.path("cdi"), testbed.node.path("dev"));
        let containerd = Containerd::start_over(toolbox, &dir.path().join("containerd"), &cdi, &nodes).await?;
        Ok(Some(Self { containerd, testbed, ids, dir }))
    }

    async fn pod(&self, runtime: Runtime, user_namespace: bool) -> Result<Pod> {
        let container =
            ContainerSpec { name: "one".to_owned(), cdi_devices: self.ids.clone(), ..ContainerSpec::default() };
        let name = format!("{}-{user_namespace}", runtime.name());
        let pod = PodSpec { name, runtime, user_namespace, containers: vec![container], ..PodSpec::default() };
        Ok(self.containerd.run(&pod).await?)
    }

    fn hook(&self) -> String {
        self.dir.path().join("hooks").join(DRIVER).join("aliquot-hook").display().to_string()
    }
}

/// What the driver's specs and the hook make: links, the loader's cache, and nodes that anybody may open.
const LOOK: &str = "for link in $(find /usr/lib /usr/lib64 -type l | sort); do echo $link -\\> $(readlink $link); done
    busybox cksum /etc/ld.so.cache; stat -c '%n %a %t:%T' /dev/nvidia*";

async fn shell(pod: &Pod, line: &str) -> Result<String> {
    let output = pod.exec("one", &["sh", "-c", line]).await?;
    Ok(output.stdout + &output.stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hook_makes_a_container_in_a_user_namespace_ready_as_any_other() -> Result<()> {
    let Some(stage) = Stage::set(0o755).await? else { return Ok(()) };
    let spec = fs::read_dir(stage.testbed.node.path("cdi"))?.map(|entry| fs::read_to_string(entry?.path()));
    let specs = spec.collect::<std::io::Result<String>>()?;
    assert!(specs.contains(&stage.hook()), "{specs}");
    let gpu = &stage.testbed.node.profile().gpus[0];
    for runtime in Runtime::ALL {
        let mut seen = Vec::new();
        for user_namespace in [false, true] {
            let pod = stage.pod(runtime, user_namespace).await?;
            let users = shell(&pod, "cat /proc/self/uid_map").await?;
            let first: Vec<&str> = users.split_whitespace().collect();
            assert_eq!(first[..2] == ["0", "65536"], user_namespace, "{users}");
            let listed = shell(&pod, "nvidia-smi -L").await?;
            assert_eq!(listed, format!("GPU 0: {} (UUID: {})\n", gpu.name, gpu.uuid), "{}", runtime.name());
            seen.push(shell(&pod, LOOK).await?);
            pod.remove().await?;
        }
        assert!(seen[0].contains("libcuda.so.1 -> libcuda.so."), "{}", seen[0]);
        assert_eq!(seen[0], seen[1], "{}", runtime.name());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_hook_cannot_be_started_by_all_the_pods_error_names_it() -> Result<()> {
    let Some(stage) = Stage::set(0o750).await? else { return Ok(()) };
    let log = stage.testbed.log();
    assert!(log.contains("hostUsers: false") && log.contains("mode 750") && log.contains("--hook-root"), "{log}");
    assert!(!Path::new(&stage.hook()).exists());
    for runtime in Runtime::ALL {
        stage.pod(runtime, false).await?.remove().await?;
        let error = stage.pod(runtime, true).await.unwrap_err().to_string();
        assert!(error.contains("plugins") && error.contains("aliquot-hook"), "{}: {error}", runtime.name());
    }
    Ok(())
}
