//! A node with a kernel and some GPUs in IOMMU groups, and whoever has them change their drivers.
use std::{fs, io, path::PathBuf, sync::Arc, time::Duration};

use aliquot_driver::{
    binding::{Binder, Trouble},
    roots::Roots,
};
use aliquot_model::{ComputeCapability, Gpu, Memory, Origin, PciAddress, Taken};
use aliquot_nvml::{Nvml, Questions, Session};
use fake_nvml::{GpuProfile, Profile};
use tokio::sync::watch;

use super::Kernel;
use crate::{
    node::{Artifacts, Node},
    passthrough::Function,
    testbed::Result,
};

/// How long NVML may take.
const LONG: Duration = Duration::from_secs(20);

/// This process is the node's driver: it has NVML open, with all that keeps a GPU in use by that.
#[derive(Debug)]
pub struct Scene {
    /// What the kernel does.
    pub kernel: Kernel,
    /// The library.
    pub nvml: Nvml,
    /// The node.
    pub node: Node,
    questions: watch::Receiver<Option<Questions>>,
    _asked: watch::Sender<Option<Questions>>,
    _events: tokio::sync::mpsc::UnboundedReceiver<aliquot_nvml::GpuEvent>,
    _dir: Arc<tempfile::TempDir>,
}

impl Scene {
    /// Eight H100, of which these functions are in sysfs.
    pub async fn set(functions: &[Function<'_>]) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let profile = Profile::named("h100x8").ok_or("no such profile")?;
        let node = Node::lay_out(&dir.path().canonicalize()?, profile, &Artifacts::find()?)?;
        for function in functions {
            node.plug(*function)?;
        }
        let kernel = Kernel::boot(&node, true)?;
        let library = aliquot_nvml::candidates(&node.path("driver")).into_iter().find(|path| path.is_file());
        let (told, events) = tokio::sync::mpsc::unbounded_channel();
        let mut nvml = Nvml::watching(library.ok_or("no library")?, told)?;
        nvml.read(Session::Keep, LONG).await?;
        let (asked, questions) = watch::channel(Some(nvml.questions()));
        Ok(Self { kernel, nvml, node, questions, _asked: asked, _events: events, _dir: Arc::new(dir) })
    }

    /// Who has drivers changed, as in a driver that has just been started, for whom the kernel may take `deadline` at a time.
    pub fn binder(&self, deadline: Duration) -> Result<Binder> {
        let program = self.node.driver_program()?;
        Ok(Binder::through(&program, deadline, self.roots(), self.questions.clone()))
    }

    fn roots(&self) -> Roots {
        let path = |name| self.node.path(name);
        Roots {
            driver: path("driver"),
            driver_on_host: path("driver"),
            dev: path("dev"),
            sys: path("sys"),
            proc: path("proc"),
            cdi: path("cdi"),
            kubelet: path("kubelet"),
            plugin: path("kubelet/plugins/gpu.aliquot.dev"),
            run: path("run/gpu.aliquot.dev"),
        }
    }

    /// These functions to vfio, from the drivers that they have now.
    pub fn taken(&self, functions: &[&str]) -> Result<Taken> {
        let addresses = functions.iter().map(|pci| pci.parse::<PciAddress>());
        let addresses = addresses.collect::<std::result::Result<Vec<_>, _>>()?;
        let gpus = self.node.profile().gpus.iter().enumerate();
        let gpus = gpus.filter(|(_, gpu)| functions.contains(&gpu.pci.as_str())).map(|(at, gpu)| described(at, gpu));
        let functions = addresses.into_iter().map(|pci| Origin { pci, driver: self.driver(&pci.to_string()) });
        Ok(Taken { by: "vfio-pci".to_owned(), functions: functions.collect(), gpus: gpus.collect::<Result<_>>()? })
    }

    /// The kernel driver that has a function.
    pub fn driver(&self, pci: &str) -> Option<String> {
        self.node.driver_of(pci)
    }

    /// A file of a function in sysfs.
    pub fn file(&self, pci: &str, name: &str) -> PathBuf {
        self.node.function(pci).join(name)
    }

    /// What such a file says.
    pub fn text(&self, pci: &str, name: &str) -> io::Result<String> {
        Ok(fs::read_to_string(self.file(pci, name))?.trim().to_owned())
    }

    /// The GPUs that NVML lists, asked anew.
    pub async fn listed(&mut self) -> Result<usize> {
        Ok(self.nvml.read(Session::Renew, LONG).await?.gpus.len())
    }

    /// Tries again until it is done, as the kubelet does, for as long as it is told that it may be.
    pub async fn until_done(
        &self,
        go: impl AsyncFn() -> std::result::Result<(), Trouble>,
    ) -> std::result::Result<(), Trouble> {
        for _ in 0..400 {
            match go().await {
                Err(trouble) if trouble.is_transient() => tokio::time::sleep(Duration::from_millis(50)).await,
                other => return other,
            }
        }
        go().await
    }
}

fn described(at: usize, gpu: &GpuProfile) -> Result<Gpu> {
    Ok(Gpu {
        uuid: gpu.uuid.parse()?,
        pci: gpu.pci.parse()?,
        index: u32::try_from(at)?,
        minor: gpu.minor,
        product_name: gpu.name.clone(),
        brand: "Nvidia".to_owned(),
        architecture: "Hopper".to_owned(),
        compute_capability: ComputeCapability { major: 9, minor: 0 },
        memory: Memory::from_bytes(gpu.memory),
        driver_version: "580".to_owned(),
        cuda_driver_version: "13.0".to_owned(),
        pcie_root: None,
        numa_node: None,
        drm: Vec::new(),
        process_memory: true,
        hard_limits: false,
        needs: None,
    })
}
