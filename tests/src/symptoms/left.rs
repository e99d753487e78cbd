//! What is left of claims that are gone: on the node, and in the API server.
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams},
};
use serde_json::json;

use super::{
    Error,
    install::{Installation, Variant},
    objects::{SHARE, WHOLE},
    stage::{About, DRIVER, Stage},
};
use crate::{cluster::api, shell::Shell};

/// Where records are.
const RECORDS: &str = "/run/aliquot/gpu.aliquot.dev/claims";
/// In a claim whose GPU may be in use.
const UNREADABLE: &str =
    "device … may still be in use by the claim with UID …, whose record on this node can't be read";

/// A command that stops something, and one that starts it again.
pub(super) type Switch<'a> = (&'a Shell, &'a Shell);

pub(super) async fn quarantined(stage: &Stage<'_>) -> Result<(), Error> {
    let gpu = stage.gpu(0)?;
    stage.start_with("first", &WHOLE, vec![stage.result(&gpu.device)]).await?;
    stage.runs("first").await?;
    let uid = uid(stage, "first").await?;
    let since = stage.now().await?;
    stage.script(&format!("f={RECORDS}/{uid}.json; head -c 40 $f > $f.cut && mv $f.cut $f")).await?;
    // A driver that runs knows what it wrote; the next one reads it.
    stage.restart_driver().await?;
    stage.sees(&since, "RecordQuarantined", stage.on_node()).await?;
    stage.start_with("second", &WHOLE, vec![stage.result(&gpu.device)]).await?;
    stage.sees_unprepared(&since, UNREADABLE, "second").await?;
    stage.end("first").await?;
    stage.runs("second").await?;
    stage.script(&format!("! test -e {RECORDS}/{uid}.json")).await.map(drop)
}

/// The kubelet loses what it knows of claims while the pod and its claim are deleted.
pub(super) async fn stale(
    stage: &Stage<'_>,
    installation: &Installation<'_>,
    kubelet: Switch<'_>,
) -> Result<(), Error> {
    let patience = stage.plan.patience;
    let report = Variant { driver: &[("ALIQUOT_SWEEP", "report")], ..Variant::default() };
    installation.apply(&report).await?;
    stage.started("lost", &SHARE).await?;
    let uid = uid(stage, "lost").await?;
    let since = stage.now().await?;
    kubelet.0.run(patience).await?;
    let lost = async {
        let deleted = stage.pods().delete("lost", &DeleteParams::default().grace_period(0)).await;
        deleted.map_err(api("delete pod lost".to_owned()))?;
        stage.forget("lost").await?;
        stage.script("rm -f /var/lib/kubelet/dra_manager_state").await
    };
    let lost = lost.await;
    kubelet.1.run(patience).await?;
    lost?;
    stage.sees(&since, "StaleClaim", stage.on_node()).await?;
    installation.apply(&Variant::default()).await?;
    stage.sees(&since, "StaleClaimRemoved", stage.on_node()).await?;
    stage.script(&format!("! test -e {RECORDS}/{uid}.json")).await.map(drop)
}

/// A claim is deleted under the pod that uses it.
pub(super) async fn deleting(stage: &Stage<'_>) -> Result<(), Error> {
    stage.started("user", &SHARE).await?;
    let since = stage.now().await?;
    let deleted = stage.claims().delete("user", &DeleteParams::default()).await;
    deleted.map_err(api("delete claim user".to_owned()))?;
    stage.sees(&since, "ClaimStuckDeleting", About("ResourceClaim", "user")).await?;
    stage.end("user").await?;
    gone(stage, "user").await
}

/// Without kube-controller-manager nobody removes the reservation of a pod that was deleted by force.
pub(super) async fn reserved(stage: &Stage<'_>, controllers: Switch<'_>) -> Result<(), Error> {
    let since = stage.now().await?;
    let seen = without(stage, controllers, async || {
        orphan(stage, "kept").await?;
        stage.sees(&since, "ClaimReservedForGonePods", About("ResourceClaim", "kept")).await
    });
    seen.await?;
    free(stage, "kept").await
}

/// The same, where the controller may free claims.
pub(super) async fn released(
    stage: &Stage<'_>,
    installation: &Installation<'_>,
    controllers: Switch<'_>,
) -> Result<(), Error> {
    installation.apply(&Variant { components: &["release-stuck-claims"], ..Variant::default() }).await?;
    let since = stage.now().await?;
    let seen = without(stage, controllers, async || {
        orphan(stage, "freed").await?;
        stage.sees(&since, "ClaimReleased", About("ResourceClaim", "freed")).await?;
        free(stage, "freed").await
    });
    let seen = seen.await;
    installation.apply(&Variant::default()).await?;
    seen
}

/// Does something while kube-controller-manager is away.
async fn without<T>(
    stage: &Stage<'_>,
    controllers: Switch<'_>,
    act: impl AsyncFnOnce() -> Result<T, Error>,
) -> Result<T, Error> {
    let stopped = controllers.0.run(stage.plan.patience).await;
    // It may be gone although the command failed.
    let done = if stopped.is_ok() { Some(act().await) } else { None };
    controllers.1.run(stage.plan.patience).await?;
    stopped?;
    done.unwrap_or_else(|| Err(Error::Otherwise("it was not tried".to_owned())))
}

/// A claim that is allocated and reserved for a pod that never was.
async fn orphan(stage: &Stage<'_>, name: &str) -> Result<(), Error> {
    let mut claim = WHOLE.claim(name);
    claim["metadata"]["finalizers"] = json!(["resource.kubernetes.io/delete-protection"]);
    stage.make::<ResourceClaim>(&stage.claims(), claim).await?;
    let results = vec![stage.result(&stage.gpu(3)?.device)];
    stage.allocate(name, results, &[("gone", "00000000-0000-4000-8000-000000000000")]).await
}

async fn free(stage: &Stage<'_>, name: &str) -> Result<(), Error> {
    stage
        .until("for the claim to be free", async || {
            let claim = stage.claims().get(name).await.map_err(api(format!("get claim {name}")))?;
            let status = claim.status.unwrap_or_default();
            Ok(status.reserved_for.is_none_or(|all| all.is_empty()) && status.allocation.is_none())
        })
        .await
}

async fn gone(stage: &Stage<'_>, claim: &str) -> Result<(), Error> {
    stage
        .until("for the claim to go", async || {
            let there = stage.claims().get_opt(claim).await.map_err(api(format!("get claim {claim}")))?;
            Ok(there.is_none())
        })
        .await
}

async fn uid(stage: &Stage<'_>, claim: &str) -> Result<String, Error> {
    let claim = stage.claims().get(claim).await.map_err(api(format!("get claim {claim}")))?;
    Ok(claim.uid().unwrap_or_default())
}

/// A slice of a node that there isn't.
pub(super) async fn slice(stage: &Stage<'_>) -> Result<(), Error> {
    const NODE: &str = "symptoms-gone";
    let slices: Api<ResourceSlice> = Api::all(stage.client.clone());
    let pool = json!({"name": format!("{DRIVER}/{NODE}"), "generation": 1, "resourceSliceCount": 1});
    let slice = json!({"metadata": {"name": NODE},
        "spec": {"driver": DRIVER, "nodeName": NODE, "pool": pool, "devices": [{"name": "gpu-0000-01-00"}]}});
    let since = stage.now().await?;
    stage.make::<ResourceSlice>(&slices, slice).await?;
    stage.sees(&since, "StaleSliceDeleted", About("Node", NODE)).await?;
    let left = ListParams::default().fields(&format!("spec.nodeName={NODE}"));
    let left = slices.list(&left).await.map_err(api("list the slices".to_owned()))?;
    if left.items.is_empty() { Ok(()) } else { Err(Error::Otherwise("the slice is still there".to_owned())) }
}
