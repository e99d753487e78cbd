//! GPUs that the driver takes from NVIDIA's kernel driver for virtual machines, on a node whose kernel is simulated.
use std::fs;

use rustix::io::Errno;

use super::{
    Error,
    install::{Installation, Variant},
    objects::{Ask, Gpu, WHOLE},
    stage::Stage,
};
use crate::{
    kernel::{Disorder, Kernel},
    passthrough::Function,
};

/// Of the GPU that is taken, by NVML's index.
const INDEX: usize = 4;
/// Of the first GPU; the others follow.
const FIRST_GROUP: u32 = 93;
/// That of the one that is taken.
pub(super) const NODE: &str = "/dev/vfio/97";
/// Those of the host that have the two.
pub(super) const HOST: [&str; 2] = ["nvidia", "snd_hda_intel"];
const POLICY: &str = "[{offer: [whole, shares, vfio], vfio: {binding: dynamic}}]";
/// More tries than a kubelet has in the time that a plan gives.
const MANY: usize = 40;

/// What there is then.
pub(super) struct Switching {
    kernel: Kernel,
    pub(super) gpu: Gpu,
    pci: String,
    audio: String,
    /// The device for a virtual machine.
    pub(super) device: String,
}

impl Switching {
    /// All GPUs can be taken; one has an audio function beside it.
    pub(super) async fn begin(stage: &Stage<'_>, installation: &Installation<'_>) -> Result<Self, Error> {
        let node = &stage.node;
        let gpu = stage.gpu(INDEX)?;
        let mut taken = None;
        for ((at, profile), group) in node.profile().gpus.iter().enumerate().zip(FIRST_GROUP..) {
            node.plug(Function::gpu(&profile.pci, "nvidia", group))?;
            if at == INDEX {
                let audio = profile.pci.replace(".0", ".1");
                node.plug(Function::audio(&audio, "snd_hda_intel", group))?;
                taken = Some((profile.pci.clone(), audio));
            }
        }
        let (pci, audio) = taken.ok_or_else(|| Error::Otherwise("the node has too few GPUs".to_owned()))?;
        let kernel = Kernel::boot(node, false)?;
        let files = node.path("libkernel_files.so");
        fs::copy(node.kernel_files(), &files)?;
        let preload = files.to_string_lossy();
        let driver = [("LD_PRELOAD", &*preload), ("ALIQUOT_PREPARE_BUDGET", "20s")];
        installation.apply(&Variant { components: &["vfio-dynamic"], driver: &driver, ..Variant::default() }).await?;
        stage.policy(POLICY).await?;
        let device = format!("{}-vfio", gpu.device);
        stage.published(&device, true).await?;
        Ok(Self { kernel, gpu, pci, audio, device })
    }

    /// Whether these kernel drivers have the GPU and what is beside it.
    pub(super) fn is_with(&self, stage: &Stage<'_>, drivers: [&str; 2]) -> Result<(), Error> {
        let now = [&self.pci, &self.audio].map(|pci| stage.node.driver_of(pci));
        if now == drivers.map(|driver| Some(driver.to_owned())) {
            return Ok(());
        }
        Err(Error::Otherwise(format!("the card is with {now:?}, and not with {drivers:?}")))
    }

    /// All is as before, but for what is in sysfs.
    pub(super) async fn end(self, stage: &Stage<'_>, installation: &Installation<'_>) -> Result<(), Error> {
        stage.policy("[]").await?;
        stage.published(&self.device, false).await?;
        installation.apply(&Variant::default()).await
    }
}

/// The kernel refuses each time.
pub(super) async fn not_moved(stage: &Stage<'_>, installation: &Installation<'_>) -> Result<(), Error> {
    let switching = Switching::begin(stage, installation).await?;
    for _ in 0..MANY {
        switching.kernel.order(&format!("pci/drivers_probe {}", switching.pci), Disorder::Refuse(Errno::NODEV));
    }
    let since = stage.now().await?;
    let card = Gpu::of_place(&switching.device);
    stage.start("vm", &Ask { class: "vfio.gpu.aliquot.dev", gpu: Some(&card), ..WHOLE }).await?;
    stage.sees(&since, "GPUNotMoved", stage.on_node()).await?;
    stage.tainted(&switching.device, true).await?;
    stage.tainted(&switching.gpu.device, true).await?;
    stage.end("vm").await?;
    switching.is_with(stage, HOST)?;
    switching.end(stage, installation).await
}
