//! GPUs that the administrator has given to vfio-pci.
use std::time::{Duration, Instant};

use vfio_ioctls::VfioError;

use super::{
    super::places::{AUDIO, CARD, CROWDED, FOREIGN, LONE},
    kernel,
    monitor::Monitor,
    scene::{Scene, milliseconds},
};
use crate::{steps::Step, testbed::Result};

/// The device's name by its address.
const LONE_DEVICE: &str = "gpu-0000-01-00-vfio";
const CARD_DEVICE: &str = "gpu-0000-03-00-vfio";
const CROWDED_DEVICE: &str = "gpu-0000-05-01-vfio";
/// How long a write that should hang is watched.
const HANGS: Duration = Duration::from_secs(1);

/// The first slices after the start.
pub(super) async fn is_offered(scene: &mut Scene, step: &mut Step) -> Result<()> {
    scene.start_driver(&[]).await?;
    scene.published(&[LONE_DEVICE], Instant::now()).await?;
    let device = scene.testbed.devices().into_iter().next().ok_or("no device")?;
    let attributes = device.attributes.unwrap_or_default();
    for (name, attribute) in &attributes {
        let value = attribute.string.clone().or(attribute.int.map(|int| int.to_string()));
        step.tell(format_args!("{name}: {}", value.or(attribute.bool.map(|is| is.to_string())).unwrap_or_default()));
    }
    let memory = device.capacity.unwrap_or_default()["addressableMemory"].value.0.clone();
    step.tell(format_args!("addressableMemory: {memory}"));
    let group = attributes.get("iommuGroup").and_then(|group| group.int);
    if group != kernel::group(LONE.pci).map(i64::from) || memory != "256Mi" {
        step.fail("these aren't the GPU's group and memory");
    }
    Ok(())
}

/// From the claim to the GPU's registers, and back.
pub(super) async fn is_passed(scene: &mut Scene, step: &mut Step) -> Result<()> {
    let began = Instant::now();
    let (claim, prepared) = scene.claim("vm", LONE_DEVICE).await?;
    prepared?;
    scene.took("prepared", began.elapsed());
    let nodes = scene.nodes()?;
    step.tell(format_args!("prepared after {}: {}", milliseconds(began.elapsed()), nodes.join(" ")));
    let group = kernel::group(LONE.pci).ok_or("no group")?;
    if nodes != [kernel::node(group).to_string_lossy()] || !kernel::is_device(&kernel::node(group)) {
        step.fail("that isn't the group's node");
    }
    let monitor = Monitor::open(LONE.pci)?;
    monitor.reset();
    let ([vendor, device], region) = (monitor.ids(), monitor.largest_region());
    step.tell(format_args!("the virtual machine sees {vendor:04x}:{device:04x} with a region of {region} bytes"));
    if ([vendor, device], region) != ([0x10de, 0x2330], 256 << 20) {
        step.fail("that isn't the GPU");
    }
    match Monitor::open(LONE.pci) {
        Err(VfioError::OpenGroup(error, _)) => step.tell(format_args!("a second one is refused: {error}")),
        Err(error) => step.fail(format_args!("a second one is refused otherwise: {error}")),
        Ok(_) => step.fail("a second one has it, too"),
    }
    let (other, refused) = scene.claim("second", LONE_DEVICE).await?;
    match refused {
        Err(why) => step.tell(format_args!("a second claim: {why}")),
        Ok(()) => step.fail("a second claim has it, too"),
    }
    drop(monitor);
    scene.testbed.unprepare(&claim).await??;
    scene.testbed.unprepare(&other).await??;
    let left = scene.testbed.specs()?;
    if !left.is_empty() {
        step.fail(format_args!("{left:?} are left"));
    }
    Ok(())
}

/// The kernel waits for the virtual machine; the driver must see that the GPU is gone when it is, and that it is back.
pub(super) async fn is_taken_away(scene: &mut Scene, step: &mut Step) -> Result<()> {
    let group = kernel::group(LONE.pci).ok_or("no group")?;
    let monitor = Monitor::open(LONE.pci)?;
    let began = Instant::now();
    let unbinding = tokio::task::spawn_blocking(|| kernel::unbind(LONE.pci, "vfio-pci"));
    tokio::time::sleep(HANGS).await;
    step.tell(format_args!(
        "{} later: unbind {}, driver {:?}, the group's node is {}, offered {:?}",
        milliseconds(began.elapsed()),
        if unbinding.is_finished() { "returned" } else { "waits" },
        kernel::driver(LONE.pci),
        if kernel::is_device(&kernel::node(group)) { "there" } else { "gone" },
        scene.testbed.whole(),
    ));
    if unbinding.is_finished() {
        step.fail("the kernel took it away under a virtual machine");
    }
    drop(monitor);
    let closed = Instant::now();
    unbinding.await??;
    step.tell(format_args!("unbind returned {} after the virtual machine ended", milliseconds(closed.elapsed())));
    if kernel::is_device(&kernel::node(group)) {
        step.fail("the group's node is still there");
    }
    let seen = scene.published(&[], closed).await?;
    step.tell(format_args!("withdrawn {} later", milliseconds(seen)));
    scene.took("withdrawn", seen);
    let took = kernel::give(LONE.pci, "vfio-pci")?;
    scene.took("bound", took);
    let seen = scene.published(&[LONE_DEVICE], Instant::now()).await?;
    step.tell(format_args!("bound again in {}, offered {} later", milliseconds(took), milliseconds(seen)));
    scene.took("offered", seen);
    let began = Instant::now();
    kernel::unbind(LONE.pci, "vfio-pci")?;
    let took = began.elapsed();
    step.tell(format_args!("unbound in {} while nobody has it", milliseconds(took)));
    scene.took("unbound", took);
    kernel::give(LONE.pci, "vfio-pci")?;
    Ok(())
}

/// The audio of a card needs no driver of its own.
pub(super) async fn goes_along(scene: &mut Scene, step: &mut Step) -> Result<()> {
    kernel::give(CARD.pci, "vfio-pci")?;
    let seen = scene.published(&[LONE_DEVICE, CARD_DEVICE], Instant::now()).await?;
    step.tell(format_args!("audio with {:?}; offered {} later", kernel::driver(AUDIO.pci), milliseconds(seen)));
    let (claim, prepared) = scene.claim("card", CARD_DEVICE).await?;
    prepared?;
    let monitor = Monitor::open(CARD.pci)?;
    step.tell(format_args!("the virtual machine sees {:04x?}", monitor.ids()));
    kernel::give(AUDIO.pci, "vfio-pci")?;
    step.tell("its audio went to vfio-pci meanwhile");
    drop(monitor);
    drop(Monitor::open(CARD.pci)?);
    scene.testbed.unprepare(&claim).await??;
    Ok(())
}

/// The kernel won't give such a group away, and the driver doesn't offer it.
pub(super) async fn is_crowded(scene: &mut Scene, step: &mut Step) -> Result<()> {
    kernel::give(CROWDED.pci, "vfio-pci")?;
    let group = kernel::group(CROWDED.pci).ok_or("no group")?;
    let is_there = kernel::is_device(&kernel::node(group));
    step.tell(format_args!("the group's node is {}", if is_there { "there all the same" } else { "not there" }));
    match Monitor::open(CROWDED.pci) {
        Err(error) => step.tell(format_args!("the kernel: {error}")),
        Ok(_) => step.fail("the kernel gave it away"),
    }
    let why = format!("{} with driver virtio-pci is in its IOMMU group", FOREIGN.pci);
    scene.testbed.until("the driver says what is in the way", || scene.testbed.log().contains(&why)).await?;
    step.tell(format_args!("the driver: {why}"));
    let (claim, refused) = scene.claim("crowded", CROWDED_DEVICE).await?;
    match refused {
        Err(why) => step.tell(format_args!("a claim to it: {why}")),
        Ok(()) => step.fail("a claim has it"),
    }
    scene.published(&[LONE_DEVICE, CARD_DEVICE], Instant::now()).await?;
    kernel::unbind(FOREIGN.pci, "virtio-pci")?;
    step.tell(format_args!("{} was taken from the host", FOREIGN.pci));
    drop(Monitor::open(CROWDED.pci)?);
    // Nothing below /dev/vfio tells of it.
    let all = [LONE_DEVICE, CARD_DEVICE, CROWDED_DEVICE];
    let seen = scene.published_at_last(&all, Instant::now()).await?;
    step.tell(format_args!("it can be had, and is offered {} later", milliseconds(seen)));
    scene.prepare(&claim).await??;
    match kernel::refusal(kernel::bind(FOREIGN.pci, "virtio-pci")) {
        answer if answer == "taken" => step.tell("the host may have it again while no virtual machine runs"),
        answer => step.fail(format_args!("the host gets the other device back: {answer}")),
    }
    kernel::unbind(FOREIGN.pci, "virtio-pci")?;
    let monitor = Monitor::open(CROWDED.pci)?;
    let answer = kernel::refusal(kernel::bind(FOREIGN.pci, "virtio-pci"));
    step.tell(format_args!("and while one runs: {answer}"));
    if kernel::driver(FOREIGN.pci).is_some() {
        step.fail("the host uses a device of a group that a virtual machine has");
    }
    drop(monitor);
    scene.testbed.unprepare(&claim).await??;
    Ok(())
}
