//! The machine by itself, before the driver comes: groups, and a GPU that vfio-pci takes.
use std::path::Path;

use super::{
    super::{
        machine::MODULES,
        places::{AUDIO, CARD, CROWDED, FOREIGN, LONE, OTHER},
    },
    kernel,
    scene::{Scene, milliseconds},
};
use crate::{steps::Step, testbed::Result};

/// What the kernel's IOMMU driver made of the machine.
pub(super) async fn groups(_: &mut Scene, step: &mut Step) -> Result<()> {
    step.tell(std::fs::read_to_string("/proc/version")?.trim());
    for module in MODULES {
        let name = Path::new(module).file_name().unwrap_or_default();
        kernel::load(&Scene::module(&name.to_string_lossy())).map_err(|error| format!("{module}: {error}"))?;
    }
    for place in [LONE, OTHER, CARD, CROWDED] {
        let group = kernel::group(place.pci).ok_or_else(|| format!("{} has no group", place.pci))?;
        step.tell(format_args!("{} is in group {group}: {}", place.pci, kernel::members(group).join(" ")));
    }
    let same = |a: &str, b: &str| kernel::group(a).is_some() && kernel::group(a) == kernel::group(b);
    if same(LONE.pci, OTHER.pci) || !same(CARD.pci, AUDIO.pci) || !same(CROWDED.pci, FOREIGN.pci) {
        step.fail("the groups aren't those that are tried here");
    }
    match kernel::driver(FOREIGN.pci).as_deref() {
        Some("virtio-pci") => Ok(()),
        other => Err(format!("the host should use {}, which is with {other:?}", FOREIGN.pci).into()),
    }
}

/// Is the node there when the write returns, and what does the kernel answer to what can't be.
pub(super) async fn takes_a_gpu(scene: &mut Scene, step: &mut Step) -> Result<()> {
    let pci = LONE.pci;
    step.tell(format_args!("driver_override of a GPU that nobody wants: {:?}", kernel::reserved(pci)?));
    let refusal = kernel::refusal(kernel::bind(pci, "vfio-pci"));
    step.tell(format_args!("bind to vfio-pci without driver_override: {refusal}"));
    let took = kernel::give(pci, "vfio-pci")?;
    let group = kernel::group(pci).ok_or("no group")?;
    step.tell(format_args!("with vfio-pci after {}", milliseconds(took)));
    scene.took("bound", took);
    for path in [kernel::node(group), "/dev/vfio/vfio".into()] {
        if !kernel::is_device(&path) {
            step.fail(format_args!("there is no {} when drivers_probe returns", path.display()));
        }
    }
    for (what, result) in [
        ("bind again", kernel::bind(pci, "vfio-pci")),
        ("drivers_probe again", kernel::probe(pci)),
        ("unbind from a driver that doesn't have it", kernel::unbind(pci, "pcieport")),
    ] {
        step.tell(format_args!("{what}: {}", kernel::refusal(result)));
    }
    Ok(())
}
