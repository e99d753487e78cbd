//! What becomes of GPUs, and of NVIDIA's driver.
use std::fs;

use fake_nvml::Control;

use super::{
    Error,
    objects::WHOLE,
    stage::{About, Stage},
};
use crate::passthrough::Function;

/// `nvmlDeviceGpuRecoveryAction_t`.
const RESET: u32 = 1;
const RESTART_NODE: u32 = 2;
/// `NVML_ERROR_GPU_IS_LOST`.
const LOST: u32 = 15;
/// A GPU that vfio-pci has, and its IOMMU group.
const PASSED: (&str, &str, u32) = ("0000:f1:00.0", "gpu-0000-f1-00-vfio", 91);

pub(super) async fn gone(stage: &Stage<'_>) -> Result<(), Error> {
    let gpu = stage.gpu(0)?;
    stage.started("user", &super::objects::Ask { gpu: Some(&gpu), ..WHOLE }).await?;
    let since = stage.now().await?;
    stage.node.control(&Control { removed: vec![gpu.uuid.clone()], ..Control::default() })?;
    stage.sees(&since, "GPUGone", stage.on_node()).await?;
    stage.sees(&since, "ClaimGPUGone", About("ResourceClaim", "user")).await?;
    stage.end("user").await?;
    stage.node.control(&Control::default())?;
    stage.published(&gpu.device, true).await
}

pub(super) async fn broken(stage: &Stage<'_>) -> Result<(), Error> {
    let gpu = stage.gpu(1)?;
    let since = stage.now().await?;
    let errors = [(gpu.uuid.clone(), [("*".to_owned(), LOST)].into())].into();
    stage.node.control(&Control { errors, ..Control::default() })?;
    stage.sees_form(&since, ("GPUUnhealthy", 0), stage.on_node()).await?;
    stage.published(&gpu.device, false).await?;
    stage.node.control(&Control::default())?;
    stage.published(&gpu.device, true).await
}

pub(super) async fn ill(stage: &Stage<'_>) -> Result<(), Error> {
    let gpu = stage.gpu(2)?;
    let since = stage.now().await?;
    stage.node.control(&Control { recovery: [(gpu.uuid.clone(), RESET)].into(), ..Control::default() })?;
    stage.sees_form(&since, ("GPUUnhealthy", 1), stage.on_node()).await?;
    stage.tainted(&gpu.device, true).await?;
    let allocated = stage.now().await?;
    stage.start_with("before", &WHOLE, vec![stage.result(&gpu.device)]).await?;
    stage.sees_form(&allocated, ("GPUUnhealthy", 2), About("Pod", "before")).await?;
    stage.runs("before").await?;
    stage.end("before").await?;
    let since = stage.now().await?;
    stage.node.control(&Control { recovery: [(gpu.uuid.clone(), RESTART_NODE)].into(), ..Control::default() })?;
    stage.sees_form(&since, ("GPUUnhealthy", 1), stage.on_node()).await?;
    stage.start_with("lost", &WHOLE, vec![stage.result(&gpu.device)]).await?;
    stage.sees_unprepared(&since, "device … is on a GPU that can't be used", "lost").await?;
    stage.end("lost").await?;
    let since = stage.now().await?;
    stage.node.control(&Control::default())?;
    stage.sees(&since, "GPUHealthy", stage.on_node()).await?;
    stage.tainted(&gpu.device, false).await
}

/// NVIDIA's driver for user space goes, as in an update, and comes back.
pub(super) async fn unavailable(stage: &Stage<'_>) -> Result<(), Error> {
    let (user, next) = (stage.gpu(0)?, stage.gpu(3)?);
    stage.started("user", &super::objects::Ask { gpu: Some(&user), ..WHOLE }).await?;
    let since = stage.now().await?;
    hide(stage, true)?;
    stage.sees(&since, "GPUsUnavailable", stage.on_node()).await?;
    stage.start_with("next", &WHOLE, vec![stage.result(&next.device)]).await?;
    stage.sees_unprepared(&since, "the node's GPUs can't be read", "next").await?;
    stage.sees(&since, "ClaimGPUUnseen", About("ResourceClaim", "user")).await?;
    hide(stage, false)?;
    stage.sees(&since, "GPUsAvailable", stage.on_node()).await?;
    stage.published(&user.device, true).await?;
    stage.runs("next").await?;
    Ok(())
}

/// Takes the installation away, or puts it back where it isn't there.
pub(super) fn hide(stage: &Stage<'_>, is_away: bool) -> Result<(), Error> {
    let (here, away) = (stage.node.path("driver/usr/lib"), stage.node.path("driver/away"));
    match (is_away, here.exists(), away.exists()) {
        (true, true, _) => fs::rename(here, away)?,
        (false, false, true) => fs::rename(away, here)?,
        _ => {}
    }
    Ok(())
}

pub(super) async fn none(stage: &Stage<'_>) -> Result<(), Error> {
    let all = stage.node.profile().gpus.iter().map(|gpu| gpu.uuid.clone()).collect();
    stage.node.control(&Control { removed: all, ..Control::default() })?;
    let since = stage.now().await?;
    stage.restart_driver().await?;
    stage.sees(&since, "NoGPUs", stage.on_node()).await?;
    stage.node.control(&Control::default())?;
    stage.published(&stage.gpu(0)?.device, true).await
}

/// A GPU for virtual machines loses its IOMMU group's node.
pub(super) async fn passed(stage: &Stage<'_>) -> Result<(), Error> {
    let (pci, device, group) = PASSED;
    stage.node.plug(Function::gpu(pci, "vfio-pci", group))?;
    stage.node.open_group(group)?;
    stage.published(device, true).await?;
    let since = stage.now().await?;
    stage.node.close_group(group)?;
    stage.sees(&since, "VfioGPULost", stage.on_node()).await?;
    stage.published(device, false).await?;
    stage.node.open_group(group)?;
    stage.published(device, true).await?;
    stage.node.close_group(group)?;
    stage.node.unplug(pci)?;
    stage.published(device, false).await
}
