//! What hinders a GPU from going to vfio or from coming back: who is told what, and that it goes on when it is over.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
use std::{fs, os::unix::fs::symlink, time::Duration};

use aliquot_driver::binding::Trouble;
use aliquot_tests::{
    kernel::{Disorder, Holder, Scene},
    passthrough::Function,
    testbed::Result,
};
use fake_nvml::{Control, Persistence, Process};
use rustix::io::Errno;

const LONG: Duration = Duration::from_secs(20);
/// For the kernel to be told to hang.
const SHORT: Duration = Duration::from_millis(700);
const GPU: &str = "0000:1b:00.0";
const AUDIO: &str = "0000:1b:00.1";
const SECOND: &str = "0000:43:00.0";
const LOCK: &str = "proc/driver/nvidia/gpus/0000:1b:00.0/unbindLock";

async fn gpu() -> Result<Scene> {
    Scene::set(&[Function::gpu(GPU, "nvidia", 12)]).await
}

async fn card() -> Result<Scene> {
    let audio = Function::audio(AUDIO, "snd_hda_intel", 12);
    Scene::set(&[Function::gpu(GPU, "nvidia", 12), audio]).await
}

/// Whoever uses it is named, and nothing has changed.
fn assert_in_use(scene: &Scene, trouble: &Trouble, pid: u32) {
    let told = trouble.to_string();
    assert!(trouble.is_transient() && told.contains(&format!("sleep (process {pid})")), "{told}");
    assert_eq!(scene.driver(GPU).as_deref(), Some("nvidia"));
    assert_eq!(scene.text(GPU, "driver_override").unwrap(), "(null)");
    let writes = scene.kernel.writes();
    assert!(!writes.iter().any(|write| write.contains("/unbind ")), "{writes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_the_gpu_open_is_named_and_keeps_it_until_he_ends() -> Result<()> {
    let scene = card().await?;
    let (binder, taken) = (scene.binder(LONG)?, scene.taken(&[GPU, AUDIO])?);
    let holder = Holder::of(&scene.node, "nvidia0")?;
    assert_in_use(&scene, &binder.take(&taken).await.unwrap_err(), holder.pid());
    assert_eq!(fs::read_to_string(scene.node.path(LOCK))?.trim(), "0");
    drop(holder);
    Ok(binder.take(&taken).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_gpu_in_use_leaves_the_other_of_its_group_unlocked() -> Result<()> {
    let scene = Scene::set(&[Function::gpu(GPU, "nvidia", 12), Function::gpu(SECOND, "nvidia", 12)]).await?;
    let (binder, taken) = (scene.binder(LONG)?, scene.taken(&[GPU, SECOND])?);
    let holder = Holder::of(&scene.node, "nvidia1")?;
    let told = binder.take(&taken).await.unwrap_err();
    assert!(told.to_string().contains(SECOND), "{told}");
    assert_in_use(&scene, &told, holder.pid());
    assert_eq!(fs::read_to_string(scene.node.path(LOCK))?.trim(), "0");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_without_the_lock_lets_go_of_nothing_that_somebody_has_open() -> Result<()> {
    let scene = gpu().await?;
    let (binder, taken) = (scene.binder(LONG)?, scene.taken(&[GPU])?);
    fs::remove_file(scene.node.path(LOCK))?;
    let holder = Holder::of(&scene.node, "nvidia0")?;
    assert_in_use(&scene, &binder.take(&taken).await.unwrap_err(), holder.pid());
    drop(holder);
    // Without the node's processes nobody knows.
    fs::remove_file(scene.node.path("proc/self"))?;
    assert!(matches!(binder.take(&taken).await, Err(Trouble::Unseen { .. })));
    symlink("/proc/self", scene.node.path("proc/self"))?;
    Ok(binder.take(&taken).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_computes_on_it_is_known_without_any_session_being_ended() -> Result<()> {
    let scene = gpu().await?;
    let (binder, taken) = (scene.binder(LONG)?, scene.taken(&[GPU])?);
    let holder = Holder::of(&scene.node, "nvidia5")?;
    let process = Process { pid: holder.pid(), used: Some(1), graphics: false };
    let processes = [(scene.node.profile().gpus[0].uuid.clone(), vec![process])].into();
    scene.node.control(&Control { processes, ..Control::default() })?;
    assert_in_use(&scene, &binder.take(&taken).await.unwrap_err(), holder.pid());
    assert_eq!(scene.kernel.writes(), [""; 0]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_that_stays_has_its_persistence_mode_again() -> Result<()> {
    let scene = gpu().await?;
    let (binder, taken) = (scene.binder(LONG)?, scene.taken(&[GPU])?);
    let control = scene.node.path("nvml-control.json");
    let on = Persistence([scene.node.profile().gpus[0].uuid.clone()].into());
    on.keep(&control)?;
    let _holder = Holder::of(&scene.node, "nvidia0")?;
    assert!(matches!(binder.take(&taken).await, Err(Trouble::InUse { .. })));
    assert_eq!(Persistence::beside(&control), on);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_virtual_machine_that_still_runs_keeps_its_gpu() -> Result<()> {
    let scene = gpu().await?;
    let (binder, taken) = (scene.binder(LONG)?, scene.taken(&[GPU])?);
    binder.take(&taken).await?;
    let machine = Holder::of(&scene.node, "vfio/12")?;
    let told = binder.give_back(&taken).await.unwrap_err();
    assert!(told.is_transient() && told.to_string().contains(&machine.pid().to_string()), "{told}");
    assert_eq!(scene.driver(GPU).as_deref(), Some("vfio-pci"));
    drop(machine);
    Ok(binder.give_back(&taken).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kernel_that_hangs_holds_up_this_group_alone_and_is_waited_for_by_every_driver() -> Result<()> {
    let scene = Scene::set(&[Function::gpu(GPU, "nvidia", 12), Function::gpu(SECOND, "nvidia", 13)]).await?;
    let (binder, taken) = (scene.binder(SHORT)?, scene.taken(&[GPU])?);
    scene.kernel.order("nvidia/unbind 0000:1b:00.0", Disorder::Hang);
    let is_told = |told: Trouble| {
        let text = told.to_string();
        assert!(told.is_transient() && text.contains("still at it") && text.contains("nvidia/unbind"), "{text}");
    };
    is_told(binder.take(&taken).await.unwrap_err());
    is_told(binder.take(&taken).await.unwrap_err());
    is_told(binder.give_back(&taken).await.unwrap_err());
    // Another driver process.
    is_told(scene.binder(SHORT)?.take(&taken).await.unwrap_err());
    let other = scene.taken(&[SECOND])?;
    binder.take(&other).await?;
    assert_eq!(scene.driver(SECOND).as_deref(), Some("vfio-pci"));
    assert_eq!(scene.driver(GPU).as_deref(), Some("nvidia"));
    scene.kernel.release();
    scene.until_done(async || binder.take(&taken).await).await?;
    assert_eq!(scene.driver(GPU).as_deref(), Some("vfio-pci"));
    let unbound = scene.kernel.writes().iter().filter(|write| write.starts_with("nvidia/unbind 0000:1b")).count();
    assert_eq!(unbound, 1, "nothing was begun for it meanwhile");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_with_which_the_kernel_takes_its_time_keeps_no_other_waiting() -> Result<()> {
    let scene = Scene::set(&[Function::gpu(GPU, "nvidia", 12), Function::gpu(SECOND, "nvidia", 13)]).await?;
    let (binder, taken) = (scene.binder(LONG)?, scene.taken(&[GPU])?);
    let other = scene.taken(&[SECOND])?;
    scene.kernel.order("nvidia/unbind 0000:1b:00.0", Disorder::Hang);
    let beside = async {
        tokio::task::block_in_place(|| scene.kernel.until_it_hangs());
        let beside = tokio::time::timeout(LONG / 2, binder.take(&other)).await;
        scene.kernel.release();
        beside
    };
    let (slow, beside) = tokio::join!(binder.take(&taken), beside);
    beside??;
    Ok(slow?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_helper_that_is_killed_costs_one_try() -> Result<()> {
    let scene = gpu().await?;
    let (binder, taken) = (scene.binder(LONG)?, scene.taken(&[GPU])?);
    scene.kernel.order("pci/drivers_probe", Disorder::Hang);
    let killed = async {
        tokio::task::block_in_place(|| scene.kernel.until_it_hangs());
        let pid = helper(scene.node.path("sys").to_str().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    };
    let (told, ()) = tokio::join!(binder.take(&taken), killed);
    let told = told.unwrap_err();
    assert!(told.is_transient() && told.to_string().contains("was ended"), "{told}");
    scene.kernel.release();
    scene.until_done(async || binder.take(&taken).await).await?;
    assert_eq!(scene.driver(GPU).as_deref(), Some("vfio-pci"));
    Ok(())
}

/// The process that writes to a node's sysfs.
fn helper(sys: &str) -> Option<rustix::process::Pid> {
    fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let line = fs::read_to_string(process.path().join("cmdline")).ok()?;
        let is_it = line.contains("kernel-file") && line.contains(sys);
        let pid = process.file_name().to_str()?.parse().ok().filter(|_| is_it)?;
        rustix::process::Pid::from_raw(pid)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_has_reserved_or_taken_is_left_to_him() -> Result<()> {
    let scene = card().await?;
    let (binder, taken) = (scene.binder(LONG)?, scene.taken(&[GPU, AUDIO])?);
    fs::write(scene.file(AUDIO, "driver_override"), "pci-stub\n")?;
    let told = binder.take(&taken).await.unwrap_err();
    assert!(told.to_string().contains(AUDIO) && told.to_string().contains("pci-stub"), "{told}");
    assert!(!told.is_transient());
    fs::write(scene.file(AUDIO, "driver_override"), "(null)\n")?;
    scene.node.bind(AUDIO, "xhci_hcd")?;
    let told = binder.take(&taken).await.unwrap_err();
    assert!(told.to_string().contains(AUDIO) && told.to_string().contains("xhci_hcd"), "{told}");
    assert_eq!(scene.kernel.writes(), [""; 0]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_that_falls_off_the_bus_is_gone_and_its_card_comes_back_without_it() -> Result<()> {
    for step in ["nvidia/unbind", "pci/drivers_probe 0000:1b:00.0"] {
        let scene = card().await?;
        let (binder, taken) = (scene.binder(LONG)?, scene.taken(&[GPU, AUDIO])?);
        scene.kernel.order(step, Disorder::Vanish);
        let told = binder.take(&taken).await.unwrap_err();
        assert!(matches!(&told, Trouble::Gone { pci } if pci.to_string() == GPU) && !told.is_transient(), "{told}");
        binder.give_back(&taken).await?;
        assert_eq!(scene.driver(AUDIO).as_deref(), Some("snd_hda_intel"), "{step}");
        assert_eq!(scene.text(AUDIO, "driver_override")?, "(null)", "{step}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kernel_that_refuses_is_quoted_and_may_do_it_the_next_time() -> Result<()> {
    let scene = gpu().await?;
    let (binder, taken) = (scene.binder(LONG)?, scene.taken(&[GPU])?);
    scene.kernel.order("nvidia/unbind", Disorder::Refuse(Errno::BUSY));
    let told = binder.take(&taken).await.unwrap_err();
    assert!(told.is_transient() && told.to_string().contains("Device or resource busy"), "{told}");
    assert_eq!(fs::read_to_string(scene.node.path(LOCK))?.trim(), "0", "programs may use it again");
    scene.kernel.order("pci/drivers_probe", Disorder::Nothing);
    let told = binder.take(&taken).await.unwrap_err();
    assert!(!told.is_transient() && told.to_string().contains("did nothing"), "{told}");
    assert_eq!(scene.driver(GPU), None);
    binder.give_back(&taken).await?;
    assert_eq!(scene.driver(GPU).as_deref(), Some("nvidia"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_come_to_an_end_is_not_begun() -> Result<()> {
    let scene = gpu().await?;
    let (binder, taken) = (scene.binder(LONG)?, scene.taken(&[GPU])?);
    symlink("../0000:1b:00.4", scene.file(GPU, "virtfn0"))?;
    let told = binder.take(&taken).await.unwrap_err();
    assert!(matches!(told, Trouble::Divided { parts: 1, .. }), "{told}");
    fs::remove_file(scene.file(GPU, "virtfn0"))?;
    fs::remove_dir_all(scene.node.path("sys/bus/pci/drivers/vfio-pci"))?;
    let told = binder.take(&taken).await.unwrap_err();
    assert!(told.to_string().contains("modprobe vfio-pci"), "{told}");
    assert_eq!(scene.kernel.writes(), [""; 0]);
    Ok(())
}
