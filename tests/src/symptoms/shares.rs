//! What goes wrong with shares: time slices, memory, and a scheduler that doesn't know them.
use fake_nvml::{Control, Process};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;

use super::{
    Error,
    objects::{Ask, Gpu, SHARE, time_slice},
    stage::{About, Stage},
};

/// More than any share's memory.
const MUCH: u64 = 60 << 30;

fn on<'a>(gpu: &'a Gpu, interval: Option<&str>) -> Ask<'a> {
    Ask { gpu: Some(gpu), parameters: interval.map(time_slice), ..SHARE }
}

pub(super) async fn not_set(stage: &Stage<'_>) -> Result<(), Error> {
    let gpu = stage.gpu(1)?;
    stage.node.refuse_time_slices(3)?;
    let since = stage.now().await?;
    stage.started("wants", &on(&gpu, Some("Short"))).await?;
    stage.sees(&since, "TimeSliceNotSet", About("Pod", "wants")).await?;
    stage.end("wants").await?;
    stage.node.allow_time_slices()?;
    Ok(())
}

pub(super) async fn conflict(stage: &Stage<'_>) -> Result<(), Error> {
    let gpu = stage.gpu(1)?;
    stage.started("short", &on(&gpu, Some("Short"))).await?;
    let since = stage.now().await?;
    stage.start("long", &on(&gpu, Some("Long"))).await?;
    stage.sees_unprepared(&since, "this claim asks for time slice …", "long").await?;
    stage.end("short").await?;
    stage.runs("long").await?;
    Ok(())
}

pub(super) async fn not_restored(stage: &Stage<'_>) -> Result<(), Error> {
    let gpu = stage.gpu(1)?;
    stage.started("has", &on(&gpu, Some("Short"))).await?;
    stage.node.refuse_time_slices(3)?;
    let since = stage.now().await?;
    stage.end("has").await?;
    stage.sees(&since, "TimeSliceNotRestored", stage.on_node()).await?;
    stage.node.allow_time_slices()?;
    stage.sees(&since, "TimeSliceRestored", stage.on_node()).await.map(drop)
}

pub(super) async fn is_whole(stage: &Stage<'_>) -> Result<(), Error> {
    let shared = format!("{}-shared", stage.gpu(4)?.device);
    let since = stage.now().await?;
    stage.start_with("all", &SHARE, vec![stage.result(&shared)]).await?;
    stage.sees(&since, "ShareIsWhole", About("Pod", "all")).await?;
    stage.sees(&since, "ShareIsWhole", stage.on_node()).await?;
    stage.runs("all").await?;
    Ok(())
}

pub(super) async fn no_room(stage: &Stage<'_>) -> Result<(), Error> {
    let shared = format!("{}-shared", stage.gpu(5)?.device);
    stage.start_with("first", &SHARE, vec![stage.share(&shared, "60Gi")]).await?;
    stage.runs("first").await?;
    let since = stage.now().await?;
    stage.start_with("second", &SHARE, vec![stage.share(&shared, "60Gi")]).await?;
    stage.sees_unprepared(&since, "device … has no room", "second").await?;
    stage.end("first").await?;
    stage.runs("second").await?;
    Ok(())
}

/// A pod with a share whose program uses more than that, under each mode of the guard.
pub(super) async fn memory(stage: &Stage<'_>) -> Result<(), Error> {
    for (mode, reason) in
        [("observe", "ShareMemoryExceeded"), ("kill", "ShareMemoryKilled"), ("evict", "ShareMemoryEvicted")]
    {
        let since = stage.now().await?;
        stage.policy(&format!("[{{shares: {{guard: {{mode: {mode}, grace: 1s}}}}}}]")).await?;
        stage.sees(&since, "PolicyInForce", stage.on_node()).await?;
        let gpu = stage.gpu(6)?;
        let pod = stage.started(mode, &on(&gpu, None)).await?;
        let since = stage.now().await?;
        let pid = uses(stage, &pod, &gpu, true).await?;
        stage.sees(&since, reason, About("Pod", mode)).await?;
        if mode == "kill" {
            stage
                .until("for the process to end", async || Ok(!stage.processes(&pod, "sleep").await?.contains(&pid)))
                .await?;
        }
        stage.node.control(&Control::default())?;
        stage.end(mode).await?;
    }
    stage.policy("[]").await
}

/// The guard sees nothing of a process on a GPU, and then does.
pub(super) async fn blind(stage: &Stage<'_>) -> Result<(), Error> {
    let gpu = stage.gpu(6)?;
    let pod = stage.started("hidden", &on(&gpu, None)).await?;
    let since = stage.now().await?;
    uses(stage, &pod, &gpu, false).await?;
    stage.sees(&since, "GuardBlind", stage.on_node()).await?;
    uses(stage, &pod, &gpu, true).await?;
    stage.sees(&since, "GuardSees", stage.on_node()).await.map(drop)
}

/// Has the pod's program use the GPU, in sight of the driver or not.
async fn uses(stage: &Stage<'_>, pod: &Pod, gpu: &Gpu, in_sight: bool) -> Result<u32, Error> {
    let found = stage.processes(pod, "sleep").await?;
    let pid = *found.first().ok_or_else(|| Error::Otherwise("the pod's program isn't found on the node".to_owned()))?;
    if in_sight {
        stage.node.place(pid, Some(&pod.uid().unwrap_or_default()))?;
    }
    let process = Process { pid, used: Some(MUCH), graphics: false };
    stage.node.control(&Control { processes: [(gpu.uuid.clone(), vec![process])].into(), ..Control::default() })?;
    Ok(pid)
}
