//! The driver's CDI specs in real containers: the GPU that was allocated, and no way to any other.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
use aliquot_tests::{
    debian::Toolbox,
    runtime::{ContainerSpec, Containerd, Pod},
    skip::toolbox,
    testbed::{NODE_DEVICE, Result, Testbed},
};

struct Node {
    testbed: Testbed,
    containerd: Containerd,
    _dir: tempfile::TempDir,
}

impl Node {
    async fn start(toolbox: &Toolbox) -> Result<Self> {
        let testbed = Testbed::start("a100x4").await?;
        let dir = tempfile::tempdir()?;
        let containerd = Containerd::start(toolbox, &dir.path().join("containerd"), &testbed.node.path("cdi")).await?;
        Ok(Self { testbed, containerd, _dir: dir })
    }

    /// A pod with one container for each list of CDI devices, named `c0`, `c1`….
    async fn pod(&self, name: &str, devices: &[Vec<String>]) -> Result<Pod> {
        let container = |(number, cdi_devices): (usize, &Vec<String>)| ContainerSpec {
            name: format!("c{number}"),
            cdi_devices: with_node(cdi_devices),
            ..ContainerSpec::default()
        };
        let containers: Vec<ContainerSpec> = devices.iter().enumerate().map(container).collect();
        Ok(self.containerd.run_pod(name, &containers).await?)
    }
}

/// As the kubelet tells the runtime: for each of a claim's devices the node's as well.
fn with_node(own: &[String]) -> Vec<String> {
    own.iter().flat_map(|id| [NODE_DEVICE.to_owned(), id.clone()]).collect()
}

async fn shell(pod: &Pod, container: &str, line: &str) -> Result<String> {
    let output = pod.exec(container, &["sh", "-c", line]).await?;
    Ok(output.stdout + &output.stderr)
}

const FIRST: &str = "gpu-0000-07-00";
const SECOND: &str = "gpu-0000-0f-00";

#[tokio::test(flavor = "multi_thread")]
async fn a_container_sees_exactly_the_gpus_of_its_claims() -> Result<()> {
    let Some(toolbox) = toolbox() else { return Ok(()) };
    let node = Node::start(toolbox).await?;
    let gpus = &node.testbed.node.profile().gpus;
    let one = node.testbed.allocated("one", &[("gpu", FIRST)]).await?;
    let two = node.testbed.allocated("two", &[("gpu", SECOND)]).await?;
    let one = node.testbed.prepare(&one).await?.unwrap();
    let two = node.testbed.prepare(&two).await?.unwrap();
    let both = [one.clone(), two.clone()].concat();
    let pod = node.pod("pod", &[one, two, both, vec![]]).await?;
    // The minors of this machine's GPUs are not in the order of their places.
    for (container, expected) in [("c0", vec![&gpus[0]]), ("c1", vec![&gpus[1]]), ("c2", vec![&gpus[0], &gpus[1]])] {
        let listed = shell(&pod, container, "nvidia-smi -L").await?;
        let lines: Vec<String> = expected
            .iter()
            .enumerate()
            .map(|(index, gpu)| format!("GPU {index}: {} (UUID: {})", gpu.name, gpu.uuid))
            .collect();
        assert_eq!(listed.lines().collect::<Vec<_>>(), lines, "{container}");
        let mut nodes: Vec<String> = expected.iter().map(|gpu| format!("nvidia{}", gpu.minor)).collect();
        nodes.sort();
        let seen = shell(&pod, container, "cd /dev; ls -d nvidia[0-9]*").await?;
        assert_eq!(seen.split_whitespace().collect::<Vec<_>>(), nodes, "{container}");
    }
    assert!(shell(&pod, "c3", "nvidia-smi -L; ls /dev/nvidia* /usr/lib/*/libnvidia*").await?.contains("not found"));
    assert_eq!(shell(&pod, "c3", "ls /dev | grep -c nvidia").await?.trim(), "0");
    pod.remove().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_cannot_make_itself_a_way_to_another_gpu() -> Result<()> {
    let Some(toolbox) = toolbox() else { return Ok(()) };
    let node = Node::start(toolbox).await?;
    let claim = node.testbed.allocated("claim", &[("gpu", FIRST)]).await?;
    let ids = node.testbed.prepare(&claim).await?.unwrap();
    let pod = node.pod("pod", &[ids, vec![]]).await?;
    let minor = node.testbed.node.profile().gpus[0].minor;
    let other = node.testbed.node.profile().gpus[1].minor;
    // Its own may be opened: behind the node there is no driver here, and that is another error.
    let own = shell(&pod, "c0", &format!(": < /dev/nvidia{minor}")).await?;
    assert!(!own.contains("not permitted"), "{own}");
    for (container, minor) in [("c0", other), ("c1", minor), ("c1", 255)] {
        let forged = shell(&pod, container, &format!("mknod /tmp/n{minor} c 195 {minor}; : < /tmp/n{minor}")).await?;
        assert!(forged.contains("not permitted"), "{container} {minor}: {forged}");
    }
    let changed = shell(&pod, "c0", "echo x >> /usr/bin/nvidia-smi").await?;
    assert!(changed.contains("Read-only"), "{changed}");
    pod.remove().await?;
    Ok(())
}
