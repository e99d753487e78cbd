//! Where it is tried: the driver on a simulated node, and a container runtime that reads its specs.
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use fake_apiserver::Server;
use kubelet_api::dra::v1::Claim;
use serde_json::Value;

use super::{
    Tally,
    host::Host,
    kinds::Kind,
    seen::{Number, Own, Seen},
};
use crate::{
    debian::Toolbox,
    image::{Entry, Image},
    node::Artifacts,
    objects,
    runtime::{Cgroups, ContainerSpec, Containerd, Pod, PodSpec, Runtime},
    testbed::{DRIVER, NODE_DEVICE, Result, Testbed},
};

/// Where images have the probe.
const PROBE: &str = "usr/bin/isolation-probe";
/// Those of nvidia, of DRM, of nvidia-uvm, of nvidia-caps where it often is, and VFIO's own.
const NUMBERS: [&str; 6] = ["195:0-255", "226:0-15", "226:128-143", "511:0-1", "510:0-8", "10:196"];
/// With every GPU.
const CONTROL: [(&str, Number); 3] =
    [("/dev/nvidiactl", (195, 255)), ("/dev/nvidia-uvm", (511, 0)), ("/dev/nvidia-uvm-tools", (511, 1))];

/// A GPU of the node.
#[derive(Debug)]
struct Gpu {
    /// Its device's name in slices.
    device: String,
    nodes: BTreeMap<String, Number>,
}

/// The node, with its driver.
pub(super) struct Stage {
    testbed: Testbed,
    dir: tempfile::TempDir,
    gpus: Vec<Gpu>,
    host: Host,
    probe: Vec<u8>,
    claims: AtomicUsize,
}

/// The same with a container runtime.
pub(super) struct Scene<'a> {
    stage: &'a Stage,
    containerd: Containerd,
}

/// How a claim holds its GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    Whole,
    Share,
}

/// A claim that is prepared.
#[derive(Debug)]
pub(super) struct Held {
    claim: Claim,
    /// Its devices, as runtimes name them.
    pub(super) ids: Vec<String>,
    /// What a container that uses it has.
    pub(super) own: Own,
}

impl Stage {
    /// Starts the driver on eight GPUs, with nodes for graphics.
    pub(super) async fn set() -> Result<Self> {
        let mut testbed = Testbed::without_driver("h100x8", Server::builder()).await?;
        let mut gpus = Vec::new();
        for (at, gpu) in (0..).zip(&testbed.node.profile().gpus) {
            let mut nodes: BTreeMap<String, Number> = [(format!("/dev/nvidia{}", gpu.minor), (195, gpu.minor))].into();
            for (name, minor) in [(format!("card{at}"), at), (format!("renderD{}", 128 + at), 128 + at)] {
                let drm = testbed.node.path("sys/bus/pci/devices").join(&gpu.pci).join("drm").join(&name);
                fs::create_dir_all(&drm)?;
                fs::write(drm.join("dev"), format!("226:{minor}\n"))?;
                nodes.insert(format!("/dev/dri/{name}"), (226, minor));
            }
            let place = gpu.pci.split('.').next().unwrap_or_default().replace(':', "-");
            gpus.push(Gpu { device: format!("gpu-{place}"), nodes });
        }
        testbed.start_driver(&[])?;
        testbed.ready().await?;
        let dir = tempfile::Builder::new().prefix("aliquot").tempdir()?;
        let host = Host::lay_out(&dir.path().join("host"), &testbed.node.path("driver"))?;
        let probe = fs::read(Artifacts::find()?.probe())?;
        Ok(Self { testbed, dir, gpus, host, probe, claims: AtomicUsize::new(0) })
    }

    /// Starts a container runtime beside it.
    pub(super) async fn raise(&mut self, toolbox: &Toolbox, cgroups: Cgroups) -> Result<Scene<'_>> {
        let dir = self.dir.path().join(format!("v{}", cgroups.version()));
        let cdi = self.testbed.node.path("cdi");
        let containerd = Containerd::start_on(cgroups, toolbox, &dir, &cdi).await?;
        let scene = Scene { stage: self, containerd };
        scene.containerd.import(&[scene.image()]).await?;
        Ok(scene)
    }
}

impl Scene<'_> {
    /// How many GPUs there are.
    pub(super) fn gpus(&self) -> usize {
        self.stage.gpus.len()
    }

    /// What the hook has refused so far, and why.
    pub(super) fn refusals(&self) -> String {
        let plugin = self.stage.testbed.node.path("kubelet/plugins").join(DRIVER);
        fs::read_to_string(plugin.join("hook.log")).unwrap_or_default()
    }

    /// What no container may change.
    pub(super) fn host(&self) -> &Host {
        &self.stage.host
    }

    /// The image with the probe.
    pub(super) fn image(&self) -> Image {
        Image::new("").with(&reference("plain"), vec![(PROBE.to_owned(), Entry::File(self.stage.probe.clone()))])
    }

    /// Makes images known.
    pub(super) async fn import(&self, images: &[Image]) -> Result<()> {
        Ok(self.containerd.import(images).await?)
    }

    /// Allocates these GPUs, by their places, to a claim, and has it prepared.
    pub(super) async fn hold(&self, how: How, places: &[usize]) -> Result<Held> {
        let gpus: Vec<&Gpu> = places.iter().filter_map(|place| self.stage.gpus.get(*place)).collect();
        let results: Vec<Value> = (0..)
            .zip(&gpus)
            .map(|(number, gpu)| match how {
                How::Whole => objects::whole(&format!("gpu{number}"), &gpu.device),
                How::Share => objects::share(&format!("gpu{number}"), &format!("{}-shared", gpu.device), 1, 8),
            })
            .collect();
        let name = format!("claim-{}", self.stage.claims.fetch_add(1, Ordering::Relaxed));
        let claim = objects::sharing(&self.stage.testbed, &name, &results).await?;
        let ids = self.stage.testbed.prepare(&claim).await??;
        Ok(Held { claim, ids, own: self.own(places) })
    }

    /// What a container has that holds these GPUs.
    pub(super) fn own(&self, places: &[usize]) -> Own {
        let gpus = places.iter().filter_map(|place| self.stage.gpus.get(*place));
        let nodes = gpus.flat_map(|gpu| gpu.nodes.clone());
        let nodes = nodes.chain(CONTROL.map(|(path, number)| (path.to_owned(), number))).collect();
        Own { nodes, ..Own::default() }
    }

    /// Has a claim unprepared.
    pub(super) async fn release(&self, held: &Held) -> Result<()> {
        Ok(self.stage.testbed.unprepare(&held.claim).await??)
    }

    /// Runs a pod; all of it or nothing.
    pub(super) async fn run(
        &self,
        name: &str,
        runtime: Runtime,
        containers: Vec<ContainerSpec>,
    ) -> std::result::Result<Pod, crate::runtime::Error> {
        self.run_as(&PodSpec { name: name.to_owned(), runtime, containers, ..PodSpec::default() }).await
    }

    /// The same with all that a pod can say.
    pub(super) async fn run_as(&self, pod: &PodSpec) -> std::result::Result<Pod, crate::runtime::Error> {
        self.containerd.run(pod).await
    }

    /// Tries everything in a container of the usual kind, and judges what came of it.
    pub(super) async fn judge(
        &self,
        pod: &Pod,
        container: &str,
        what: &str,
        own: &Own,
        tally: &mut Tally,
    ) -> Result<()> {
        self.judge_as(Kind::Regular, pod, container, what, own, tally).await
    }

    /// The same in one of another kind.
    pub(super) async fn judge_as(
        &self,
        kind: Kind,
        pod: &Pod,
        container: &str,
        what: &str,
        own: &Own,
        tally: &mut Tally,
    ) -> Result<()> {
        let before = tally.attempts;
        self.probe(pod, container).await?.judge(what, own, tally);
        tally.looked(kind, tally.attempts - before);
        Ok(())
    }

    /// Tries everything in a container.
    pub(super) async fn probe(&self, pod: &Pod, container: &str) -> Result<Seen> {
        let program = Path::new("/").join(PROBE);
        let command: Vec<&str> = program.to_str().into_iter().chain(NUMBERS).collect();
        let output = pod.exec(container, &command).await?;
        if output.status != 0 {
            return Err(format!("the probe in {container} failed: {}", output.stderr).into());
        }
        Ok(serde_json::from_str(&output.stdout)?)
    }
}

impl Held {
    /// One that nobody has prepared.
    #[cfg(test)]
    pub(super) fn new(ids: Vec<String>, own: Own) -> Self {
        Self { claim: Claim::default(), ids, own }
    }

    /// What a container has that uses this claim and another.
    pub(super) fn own_with(&self, other: &Self) -> Own {
        let nodes = self.own.nodes.clone().into_iter().chain(other.own.nodes.clone()).collect();
        Own { nodes, ..Own::default() }
    }
}

/// A container of the plain image that uses these devices, as the kubelet asks for them: with the node's for each.
pub(super) fn container(name: &str, ids: &[String]) -> ContainerSpec {
    let cdi_devices = ids.iter().flat_map(|id| [NODE_DEVICE.to_owned(), id.clone()]).collect();
    ContainerSpec { name: name.to_owned(), cdi_devices, image: Some(reference("plain")), ..ContainerSpec::default() }
}

/// An image's, by its short name.
pub(super) fn reference(name: &str) -> String {
    format!("localhost/aliquot/{name}:1")
}
