//! GPUs that the driver itself takes from NVIDIA's kernel driver for a claim.
use std::{
    fs::{self, File},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use kubelet_api::dra::v1::Claim;

use super::{
    super::places::OTHER,
    kernel,
    monitor::Monitor,
    scene::{Scene, milliseconds},
};
use crate::{policies::policy, steps::Step, testbed::Result};

const MACHINE: &str = "gpu-0000-02-00-vfio";
const WHOLE: &str = "gpu-0000-02-00";
const NODE: &str = "/dev/nvidia0";
/// How long the kubelet's side goes on trying.
const PATIENCE: Duration = Duration::from_secs(30);
/// Where the driver's process ends: first while a claim is prepared, then while it is unprepared.
const THERE: [&str; 4] = ["bind-locked", "bind-overridden", "bind-unbound", "bind-probed"];
const BACK: [&str; 3] = ["return-unbound", "return-cleared", "return-bound"];

/// One claim after the other, of both forms.
pub(super) async fn goes_and_comes(scene: &mut Scene, step: &mut Step) -> Result<()> {
    let rules = "[{match: {pciAddress: \"0000:02:00.0\"}, offer: [whole, vfio], vfio: {binding: dynamic}}, \
                 {offer: [vfio]}]";
    fs::write(POLICY, policy(rules))?;
    scene.restart_driver(&ENVIRONMENT).await?;
    let all = ["gpu-0000-01-00-vfio", WHOLE, MACHINE, "gpu-0000-03-00-vfio", "gpu-0000-05-01-vfio"];
    scene.published(&all, Instant::now()).await?;
    step.tell(format_args!("offered: {}", all.join(" ")));
    let began = Instant::now();
    let (claim, prepared) = scene.claim("taken", MACHINE).await?;
    prepared?;
    scene.took("taken", began.elapsed());
    let nodes = scene.nodes()?;
    let group = kernel::group(OTHER.pci).ok_or("no group")?;
    step.tell(format_args!(
        "prepared after {}: {}; driver {:?}, only {:?}",
        milliseconds(began.elapsed()),
        nodes.join(" "),
        kernel::driver(OTHER.pci),
        kernel::reserved(OTHER.pci)?,
    ));
    if nodes != [kernel::node(group).to_string_lossy()] || kernel::driver(OTHER.pci).as_deref() != Some("vfio-pci") {
        step.fail("the GPU isn't with vfio-pci, or has another node");
    }
    let monitor = Monitor::open(OTHER.pci)?;
    step.tell(format_args!("the virtual machine sees {:04x?}", monitor.ids()));
    if scene.testbed.whole() != all {
        step.fail(format_args!("what is offered has changed: {:?}", scene.testbed.whole()));
    }
    match scene.testbed.unprepare(&claim).await? {
        Err(why) if why.contains("in use by") => {
            step.tell(format_args!("unprepared while the virtual machine has it: {why}"));
        }
        Err(why) => step.fail(format_args!("unprepared while the virtual machine has it: {why}")),
        Ok(()) => step.fail("it was unprepared while the virtual machine had it"),
    }
    drop(monitor);
    let began = Instant::now();
    until_unprepared(scene, &claim).await?;
    scene.took("given back", began.elapsed());
    step.tell(format_args!("given back {} after it had ended", milliseconds(began.elapsed())));
    is_home(step)?;
    let (whole, prepared) = scene.claim("whole", WHOLE).await?;
    prepared?;
    File::open(NODE)?;
    step.tell("the next claim has it with NVIDIA's stand-in");
    scene.testbed.unprepare(&whole).await??;
    scene.published(&all, Instant::now()).await?;
    Ok(())
}

/// He is named, and it can be had when he has ended.
pub(super) async fn stays_in_use(scene: &mut Scene, step: &mut Step) -> Result<()> {
    let mut user = Command::new("sleep").arg("1000").stdin(Stdio::from(File::open(NODE)?)).spawn()?;
    let named = format!("sleep (process {})", user.id());
    let claim = scene.testbed.allocated("impatient", &[("gpu", MACHINE)]).await?;
    let began = Instant::now();
    loop {
        match scene.prepare(&claim).await? {
            Err(why) if why.contains(&named) => break step.tell(why),
            // A try that doesn't end in time says no more than that.
            Err(why) if began.elapsed() > PATIENCE => break step.fail(format_args!("he isn't named: {why}")),
            Err(_) => {}
            Ok(()) => break step.fail("it was taken from him"),
        }
    }
    if kernel::driver(OTHER.pci).as_deref() != Some("nvidia") {
        step.fail("it is no longer with the driver through which he uses it");
    }
    user.kill()?;
    user.wait()?;
    until_prepared(scene, &claim).await?;
    step.tell("prepared when he had ended");
    until_unprepared(scene, &claim).await?;
    is_home(step)
}

/// The kernel has done the step, and nobody has seen it.
pub(super) async fn is_gone_on_with(scene: &mut Scene, step: &mut Step) -> Result<()> {
    for point in THERE.iter().chain(&BACK) {
        let fault = format!("{point}=kill");
        let is_back = BACK.contains(point);
        let claim = scene.testbed.allocated(point, &[("gpu", MACHINE)]).await?;
        scene.restart_driver(&[&ENVIRONMENT[..], &[("ALIQUOT_FAULT", &fault)]].concat()).await?;
        if is_back {
            until_prepared(scene, &claim).await?;
        }
        // Nobody answers.
        let lost =
            if is_back { scene.testbed.unprepare(&claim).await.is_err() } else { scene.prepare(&claim).await.is_err() };
        scene.testbed.driver_ended().await?;
        let left = format!("driver {:?}, only {:?}", kernel::driver(OTHER.pci), kernel::reserved(OTHER.pci)?);
        let began = Instant::now();
        scene.restart_driver(&ENVIRONMENT).await?;
        if !is_back {
            until_prepared(scene, &claim).await?;
            drop(Monitor::open(OTHER.pci)?);
        }
        until_unprepared(scene, &claim).await?;
        step.tell(format_args!("{point}: {left}; gone on with in {}", milliseconds(began.elapsed())));
        if !lost {
            step.fail("the driver wasn't killed there");
        }
        is_home(step)?;
    }
    Ok(())
}

const POLICY: &str = "/run/policy.yaml";
const ENVIRONMENT: [(&str, &str); 3] = [
    ("ALIQUOT_POLICY", POLICY),
    ("ALIQUOT_PREPARE_BUDGET", "20s"),
    // Who uses a GPU is not to be seen without.
    ("ALIQUOT_KEEP_CAPABILITIES", "sys_admin,kill,sys_ptrace"),
];

/// As the kubelet goes on.
async fn until_prepared(scene: &Scene, claim: &Claim) -> Result<()> {
    let began = Instant::now();
    loop {
        match scene.prepare(claim).await? {
            Err(why) if began.elapsed() > PATIENCE => return Err(why.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            Ok(()) => return Ok(()),
        }
    }
}

async fn until_unprepared(scene: &Scene, claim: &Claim) -> Result<()> {
    let began = Instant::now();
    loop {
        match scene.testbed.unprepare(claim).await? {
            Err(why) if began.elapsed() > PATIENCE => return Err(why.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            Ok(()) => return Ok(()),
        }
    }
}

/// With the driver that had it, and open to all.
fn is_home(step: &mut Step) -> Result<()> {
    let (driver, only) = (kernel::driver(OTHER.pci), kernel::reserved(OTHER.pci)?);
    let opened = kernel::refusal(File::open(NODE).map(drop));
    if (driver.as_deref(), only.as_str(), opened.as_str()) != (Some("nvidia"), "(null)", "taken") {
        step.fail(format_args!("it isn't back: driver {driver:?}, only {only:?}, opening it: {opened}"));
    }
    Ok(())
}
