//! GPUs go to vfio for a virtual machine and come back, on a simulated node with a kernel.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
use std::{fs, time::Duration};

use aliquot_driver::binding::Tried;
use aliquot_tests::{
    kernel::{Disorder, Holder, Kernel, Scene},
    passthrough::Function,
    testbed::Result,
};
use fake_nvml::Persistence;

const LONG: Duration = Duration::from_secs(20);
const GPU: &str = "0000:1b:00.0";
const AUDIO: &str = "0000:1b:00.1";
const SECOND: &str = "0000:43:00.0";

fn audio() -> Function<'static> {
    Function::audio(AUDIO, "snd_hda_intel", 12)
}

/// Of a card: the GPU and its audio function.
async fn card() -> Result<Scene> {
    Scene::set(&[Function::gpu(GPU, "nvidia", 12), audio()]).await
}

fn short(writes: &[String]) -> Vec<String> {
    writes.iter().map(|write| write.replace("0000:1b:00.", "").replace("0000:43:00.0", "second")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_that_this_process_had_open_goes_to_vfio_and_comes_back_for_nvml() -> Result<()> {
    let mut scene = Scene::set(&[Function::gpu(GPU, "nvidia", 12)]).await?;
    let (binder, taken) = (scene.binder(LONG)?, scene.taken(&[GPU])?);
    binder.take(&taken).await?;
    assert_eq!(scene.driver(GPU).as_deref(), Some("vfio-pci"));
    assert_eq!(scene.text(GPU, "driver_override")?, "vfio-pci", "nothing else may take it meanwhile");
    assert!(scene.node.path("dev/vfio/12").exists() && scene.file(GPU, "vfio-dev").exists());
    assert_eq!(scene.listed().await?, 7);
    assert_eq!(
        short(&scene.kernel.writes()),
        ["0/unbindLock 1", "0/driver_override vfio-pci", "nvidia/unbind 0", "pci/drivers_probe 0"]
    );

    binder.give_back(&taken).await?;
    assert_eq!(scene.driver(GPU).as_deref(), Some("nvidia"));
    assert_eq!(scene.text(GPU, "driver_override")?, "(null)");
    assert!(!scene.node.path("dev/vfio/12").exists() && !scene.file(GPU, "vfio-dev").exists());
    assert_eq!(scene.listed().await?, 8);
    assert_eq!(short(&scene.kernel.writes())[4..], ["vfio-pci/unbind 0", "0/driver_override", "nvidia/bind 0"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cards_audio_function_goes_after_its_gpu_and_comes_back_before_it() -> Result<()> {
    let scene = card().await?;
    let (binder, taken) = (scene.binder(LONG)?, scene.taken(&[GPU, AUDIO])?);
    binder.take(&taken).await?;
    assert_eq!((scene.driver(GPU), scene.driver(AUDIO)), (Some("vfio-pci".into()), Some("vfio-pci".into())));
    binder.give_back(&taken).await?;
    assert_eq!((scene.driver(GPU), scene.driver(AUDIO)), (Some("nvidia".into()), Some("snd_hda_intel".into())));
    let writes = short(&scene.kernel.writes());
    let at = |write: &str| writes.iter().position(|other| other == write).unwrap();
    assert!(at("nvidia/unbind 0") < at("snd_hda_intel/unbind 1"), "{writes:?}");
    assert!(at("pci/drivers_probe 0") < at("pci/drivers_probe 1"), "{writes:?}");
    assert!(at("vfio-pci/unbind 1") < at("vfio-pci/unbind 0"), "{writes:?}");
    assert!(at("vfio-pci/unbind 1") < at("nvidia/bind 0"), "{writes:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gpus_of_one_group_go_together() -> Result<()> {
    let mut scene = Scene::set(&[Function::gpu(GPU, "nvidia", 12), Function::gpu(SECOND, "nvidia", 12)]).await?;
    let (binder, taken) = (scene.binder(LONG)?, scene.taken(&[GPU, SECOND])?);
    binder.take(&taken).await?;
    assert_eq!(short(&scene.kernel.writes())[..2], ["0/unbindLock 1", "second/unbindLock 1"]);
    assert_eq!(scene.listed().await?, 6);
    binder.give_back(&taken).await?;
    assert_eq!(scene.listed().await?, 8);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_driver_had_has_none_again() -> Result<()> {
    let scene = Scene::set(&[Function::gpu(GPU, "", 12)]).await?;
    let (binder, taken) = (scene.binder(LONG)?, scene.taken(&[GPU])?);
    binder.take(&taken).await?;
    assert_eq!(scene.driver(GPU).as_deref(), Some("vfio-pci"));
    binder.give_back(&taken).await?;
    assert_eq!((scene.driver(GPU), scene.text(GPU, "driver_override")?), (None, "(null)".to_owned()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn once_more_changes_nothing() -> Result<()> {
    let scene = card().await?;
    let (binder, taken) = (scene.binder(LONG)?, scene.taken(&[GPU, AUDIO])?);
    binder.give_back(&taken).await?;
    assert_eq!(scene.kernel.writes(), [""; 0]);
    binder.take(&taken).await?;
    let writes = scene.kernel.writes();
    binder.take(&taken).await?;
    // A driver that was started anew.
    scene.binder(LONG)?.take(&taken).await?;
    assert_eq!(scene.kernel.writes(), writes);
    binder.give_back(&taken).await?;
    let writes = scene.kernel.writes();
    binder.give_back(&taken).await?;
    assert_eq!(scene.kernel.writes(), writes);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_want_the_same_have_it_done_once() -> Result<()> {
    let scene = card().await?;
    let (binder, taken) = (scene.binder(LONG)?, scene.taken(&[GPU, AUDIO])?);
    let all = futures::future::join_all((0..8).map(|_| binder.take(&taken))).await;
    assert!(all.iter().all(std::result::Result::is_ok), "{all:?}");
    let unbound = scene.kernel.writes().iter().filter(|write| write.contains("/unbind ")).count();
    assert_eq!(unbound, 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_work_goes_on_when_nobody_waits_for_it() -> Result<()> {
    let scene = card().await?;
    let (binder, taken) = (scene.binder(LONG)?, scene.taken(&[GPU, AUDIO])?);
    scene.kernel.order("nvidia/unbind", Disorder::Hang);
    assert!(tokio::time::timeout(Duration::from_millis(500), binder.take(&taken)).await.is_err());
    scene.kernel.until_it_hangs();
    scene.kernel.release();
    until_with(&scene, AUDIO, "vfio-pci").await;
    assert_eq!(scene.driver(GPU).as_deref(), Some("vfio-pci"));
    Ok(())
}

async fn until_with(scene: &Scene, pci: &str, driver: &str) {
    for _ in 0..400 {
        if scene.driver(pci).as_deref() == Some(driver) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{pci} is with {:?}", scene.driver(pci));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_back_begins_where_the_way_there_ends() -> Result<()> {
    let scene = card().await?;
    let (binder, taken) = (scene.binder(LONG)?, scene.taken(&[GPU, AUDIO])?);
    scene.kernel.order("nvidia/unbind", Disorder::Hang);
    let there = binder.take(&taken);
    let back = async {
        hangs(&scene.kernel);
        binder.give_back(&taken).await
    };
    let freed = async {
        hangs(&scene.kernel);
        tokio::time::sleep(Duration::from_millis(300)).await;
        scene.kernel.release();
    };
    let (there, back, ()) = tokio::join!(there, back, freed);
    there?;
    back?;
    assert_eq!((scene.driver(GPU), scene.driver(AUDIO)), (Some("nvidia".into()), Some("snd_hda_intel".into())));
    Ok(())
}

/// Without keeping the test's other tasks waiting.
fn hangs(kernel: &Kernel) {
    tokio::task::block_in_place(|| kernel.until_it_hangs());
}

/// As a driver that is killed between two steps, or while the kernel is at one, and is started anew.
#[test]
fn a_driver_that_ends_at_any_step_goes_on_from_there() -> Result<()> {
    const STEPS: [&str; 13] = [
        "0000:1b:00.0/unbindLock 1",
        "0000:1b:00.0/driver_override vfio",
        "0000:1b:00.1/driver_override vfio",
        "nvidia/unbind",
        "snd_hda_intel/unbind",
        "pci/drivers_probe 0000:1b:00.0",
        "pci/drivers_probe 0000:1b:00.1",
        "vfio-pci/unbind 0000:1b:00.1",
        "vfio-pci/unbind 0000:1b:00.0",
        "0000:1b:00.0/driver_override",
        "0000:1b:00.1/driver_override",
        "nvidia/bind",
        "snd_hda_intel/bind",
    ];
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let living = runtime()?;
    let scene = living.block_on(card())?;
    let taken = scene.taken(&[GPU, AUDIO])?;
    for (at, step) in STEPS.iter().enumerate() {
        let is_back = at >= 7;
        if is_back {
            living.block_on(scene.binder(LONG)?.take(&taken))?;
        }
        scene.kernel.order(step, Disorder::Hang);
        let ended = runtime()?;
        let (binder, its) = (scene.binder(LONG)?, taken.clone());
        ended.spawn(async move { if is_back { binder.give_back(&its).await } else { binder.take(&its).await } });
        scene.kernel.until_it_hangs();
        ended.shutdown_background();
        let next = scene.binder(LONG)?;
        let go = || async { if is_back { next.give_back(&taken).await } else { next.take(&taken).await } };
        let told = living.block_on(go()).unwrap_err();
        assert!(told.is_transient() && told.to_string().contains("still at it"), "{step}: {told}");
        scene.kernel.release();
        living.block_on(scene.until_done(go))?;
        living.block_on(next.give_back(&taken))?;
        let is_with = |pci, driver: &str| scene.driver(pci).as_deref() == Some(driver);
        assert!(is_with(GPU, "nvidia") && is_with(AUDIO, "snd_hda_intel"), "{step}");
        assert_eq!(scene.text(GPU, "driver_override")?, "(null)", "{step}");
        let lock = fs::read_to_string(scene.node.path("proc/driver/nvidia/gpus/0000:1b:00.0/unbindLock"))?;
        assert_eq!(lock.trim(), "0", "{step}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn persistence_mode_ends_for_the_way_and_is_back_with_the_gpu() -> Result<()> {
    let scene = card().await?;
    let control = scene.node.path("nvml-control.json");
    let uuid = scene.node.profile().gpus[0].uuid.clone();
    let on = Persistence([uuid].into());
    on.keep(&control)?;
    let (binder, taken) = (scene.binder(LONG)?, scene.taken(&[GPU, AUDIO])?);
    binder.take(&taken).await?;
    assert_eq!(Persistence::beside(&control), Persistence::default());
    binder.give_back(&taken).await?;
    assert_eq!(Persistence::beside(&control), on);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_vfio_has_is_reset_where_the_kernel_can_and_nobody_uses_it() -> Result<()> {
    let functions = [GPU, AUDIO].map(|pci| Function::gpu(pci, "vfio-pci", 12));
    let scene = Scene::set(&[functions[0], functions[1], Function::gpu(SECOND, "nvidia", 13)]).await?;
    scene.node.open_group(12)?;
    let binder = scene.binder(LONG)?;
    assert_eq!(binder.reset(GPU.parse()?).await?, Tried::Reset);
    assert_eq!(short(&scene.kernel.writes()), ["0/reset 1"]);
    fs::remove_file(scene.file(AUDIO, "reset"))?;
    for pci in [AUDIO, SECOND, "0000:99:00.0"] {
        assert_eq!(binder.reset(pci.parse()?).await?, Tried::Not, "{pci}");
    }
    let machine = Holder::of(&scene.node, "vfio/12")?;
    assert_eq!(binder.reset(GPU.parse()?).await?, Tried::Not, "its machine has it");
    drop(machine);
    scene.kernel.order("0000:1b:00.0/reset", Disorder::Refuse(rustix::io::Errno::ROFS));
    assert_eq!(binder.reset(GPU.parse()?).await?, Tried::Not, "sysfs is not ours to write to");
    scene.kernel.order("0000:1b:00.0/reset", Disorder::Refuse(rustix::io::Errno::NOTTY));
    let told = binder.reset(GPU.parse()?).await.unwrap_err().to_string();
    assert!(told.contains(GPU) && told.contains("reset"), "{told}");
    Ok(())
}
