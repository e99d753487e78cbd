//! The stand-in for NVIDIA's kernel driver, and what the kernel does when a GPU is taken from it or given to it.
use std::{
    fs::{self, File},
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use super::{
    super::places::{CARD, CROWDED, LONE, OTHER},
    kernel,
    scene::{Scene, milliseconds},
};
use crate::{steps::Step, testbed::Result};

const NODE: &str = "/dev/nvidia0";
const HANGS: Duration = Duration::from_secs(1);

/// The module is loaded where GPUs are with vfio-pci already.
pub(super) async fn takes_what_is_left(scene: &mut Scene, step: &mut Step) -> Result<()> {
    scene.testbed.stop_driver()?;
    let began = Instant::now();
    kernel::load(&Scene::module("nvidia.ko"))?;
    step.tell(format_args!("loaded in {}", milliseconds(began.elapsed())));
    kernel::make_nvidia_nodes(1)?;
    for place in [LONE, OTHER, CARD, CROWDED] {
        let driver = kernel::driver(place.pci);
        step.tell(format_args!("{} is with {driver:?}", place.pci));
        let expected = if place == OTHER { "nvidia" } else { "vfio-pci" };
        if driver.as_deref() != Some(expected) {
            step.fail(format_args!("it should be with {expected}"));
        }
    }
    Ok(())
}

/// Who has the lock has the GPU to itself, and nobody gets it who isn't alone.
pub(super) async fn is_locked(_: &mut Scene, step: &mut Step) -> Result<()> {
    let lock = lock();
    let state = || fs::read_to_string(&lock).map(|text| text.trim().to_owned());
    let mut hold = |what: &str, expected: &str| -> Result<()> {
        let now = state()?;
        step.tell(format_args!("{what}: {now}"));
        if now != expected {
            step.fail(format_args!("it should be {expected}"));
        }
        Ok(())
    };
    hold("at first", "0")?;
    let user = File::open(NODE)?;
    fs::write(&lock, "1\n")?;
    hold("1 is written while the GPU is open", "0")?;
    drop(user);
    fs::write(&lock, "1\n")?;
    hold("and while it isn't", "1")?;
    let opened = kernel::refusal(File::open(NODE).map(drop));
    fs::write(&lock, "0\n")?;
    hold("0 is written", "0")?;
    step.tell(format_args!("to open the GPU meanwhile: {opened}"));
    if opened != "EIO" {
        step.fail("a locked GPU could be opened");
    }
    File::open(NODE)?;
    Ok(())
}

/// To vfio-pci and back, unused and in use, with all that the kernel says on the way.
pub(super) async fn lets_go(scene: &mut Scene, step: &mut Step) -> Result<()> {
    let pci = OTHER.pci;
    let group = kernel::group(pci).ok_or("no group")?;
    let mut timed = |what: &'static str, result: &dyn Fn() -> io::Result<()>| {
        let began = Instant::now();
        let answer = kernel::refusal(result());
        let (driver, took) = (kernel::driver(pci), began.elapsed());
        let node = if kernel::is_device(&kernel::node(group)) { "there" } else { "not there" };
        step.tell(format_args!(
            "{what}: {answer}, {}; driver {driver:?}, the group's node is {node}",
            milliseconds(took)
        ));
        (answer, driver, took)
    };
    timed("vfio-pci/bind of a GPU that nvidia has", &|| kernel::bind(pci, "vfio-pci"));
    timed("driver_override vfio-pci", &|| kernel::reserve(pci, Some("vfio-pci")));
    timed("vfio-pci/bind now", &|| kernel::bind(pci, "vfio-pci"));
    timed("drivers_probe now", &|| kernel::probe(pci));
    let (_, _, gone) = timed("nvidia/unbind", &|| kernel::unbind(pci, "nvidia"));
    timed("nvidia/bind in spite of driver_override", &|| kernel::bind(pci, "nvidia"));
    let (_, there, came) = timed("drivers_probe", &|| kernel::probe(pci));
    timed("nvidia/bind of a GPU that vfio-pci has", &|| kernel::bind(pci, "nvidia"));
    timed("driver_override of nobody", &|| kernel::reserve(pci, None));
    let (_, _, left) = timed("vfio-pci/unbind", &|| kernel::unbind(pci, "vfio-pci"));
    let (_, home, back) = timed("nvidia/bind", &|| kernel::bind(pci, "nvidia"));
    if (there.as_deref(), home.as_deref()) != (Some("vfio-pci"), Some("nvidia")) {
        step.fail("it didn't go to vfio-pci and back");
    }
    for (what, time) in [("unbound", gone), ("bound", came), ("unbound", left), ("bound", back)] {
        scene.took(what, time);
    }
    let user = File::open(NODE)?;
    let unbinding = tokio::task::spawn_blocking(|| kernel::unbind(OTHER.pci, "nvidia"));
    tokio::time::sleep(HANGS).await;
    step.tell(format_args!(
        "in use, {} later: unbind {}, driver {:?}, unbindLock is {}, opening it anew: {}",
        milliseconds(HANGS),
        if unbinding.is_finished() { "returned" } else { "waits" },
        kernel::driver(pci),
        if lock().exists() { "there" } else { "gone" },
        kernel::refusal(File::open(NODE).map(drop)),
    ));
    if unbinding.is_finished() {
        step.fail("it was taken away from a user");
    }
    drop(user);
    let closed = Instant::now();
    unbinding.await??;
    step.tell(format_args!("unbind returned {} after its user had ended", milliseconds(closed.elapsed())));
    Ok(kernel::bind(pci, "nvidia")?)
}

/// The whole GPU is NVML's to tell of, the others sysfs'.
pub(super) async fn is_offered(scene: &mut Scene, step: &mut Step) -> Result<()> {
    scene.start_driver(&[]).await?;
    let all = ["gpu-0000-01-00-vfio", "gpu-0000-02-00", "gpu-0000-03-00-vfio", "gpu-0000-05-01-vfio"];
    scene.published(&all, Instant::now()).await?;
    step.tell(all.join(" "));
    Ok(())
}

fn lock() -> PathBuf {
    PathBuf::from("/proc/driver/nvidia/gpus").join(OTHER.pci).join("unbindLock")
}
