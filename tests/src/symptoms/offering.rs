//! The policy, and API servers that can't store all that is offered.
use fake_nvml::Control;
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::{
    Api,
    api::{ListParams, PostParams},
};

use super::{Error, stage::Stage};
use crate::{cluster::api, shell::Shell};

pub(super) async fn policy(stage: &Stage<'_>) -> Result<(), Error> {
    let gpu = stage.gpu(7)?;
    let since = stage.now().await?;
    stage.policy("[{offer: [whole, chairs]}]").await?;
    stage.sees(&since, "PolicyRefused", stage.on_node()).await?;
    // A policy that doesn't fit a GPU that is there is refused; this one comes later.
    stage.node.control(&Control { removed: vec![gpu.uuid.clone()], ..Control::default() })?;
    stage.published(&gpu.device, false).await?;
    let since = stage.now().await?;
    let rule = "{match: {uuid: UUID}, offer: [shares], shares: {count: 2, memory: {minimum: 100Gi}}}";
    stage.policy(&format!("[{}]", rule.replace("UUID", &gpu.uuid))).await?;
    stage.sees(&since, "PolicyInForce", stage.on_node()).await?;
    stage.node.control(&Control::default())?;
    stage.sees(&since, "PolicyDoesNotFit", stage.on_node()).await?;
    stage.published(&gpu.device, false).await?;
    stage.policy("[]").await?;
    stage.published(&gpu.device, true).await
}

/// The driver may not create slices, and so not try whether one would be stored.
pub(super) async fn unknown(stage: &Stage<'_>) -> Result<(), Error> {
    let gpu = stage.gpu(7)?;
    let roles: Api<ClusterRole> = Api::all(stage.client.clone());
    let may_create = async |may: bool| {
        let mut role = roles.get("aliquot-driver").await.map_err(api("get the driver's role".to_owned()))?;
        for rule in role.rules.iter_mut().flatten() {
            let slices = rule.resources.iter().flatten().any(|resource| resource == "resourceslices");
            if slices {
                rule.verbs.retain(|verb| verb != "create");
                rule.verbs.extend(may.then(|| "create".to_owned()));
            }
        }
        let replaced = roles.replace("aliquot-driver", &PostParams::default(), &role).await;
        replaced.map_err(api("change the driver's role".to_owned()))?;
        Ok::<_, Error>(())
    };
    may_create(false).await?;
    let since = stage.now().await?;
    let seen = async {
        stage.restart_driver().await?;
        stage.sees(&since, "SharesUnknown", stage.on_node()).await
    };
    let seen = seen.await;
    may_create(true).await?;
    seen?;
    // What is published follows the GPUs again.
    stage.node.control(&Control { removed: vec![gpu.uuid], ..Control::default() })?;
    stage.published(&gpu.device, false).await?;
    stage.node.control(&Control::default())?;
    stage.published(&gpu.device, true).await
}

/// The API server is started without the feature gates, and with them again.
pub(super) async fn fixed(stage: &Stage<'_>, off: &Shell, on: &Shell) -> Result<(), Error> {
    let shared = format!("{}-shared", stage.gpu(7)?.device);
    let patience = stage.plan.patience;
    let seen = async {
        off.run(patience).await?;
        reachable(stage).await?;
        let since = stage.now().await?;
        stage.restart_driver().await?;
        stage.sees(&since, "SharesFixed", stage.on_node()).await?;
        stage.published(&shared, false).await
    };
    let seen = seen.await;
    on.run(patience).await?;
    reachable(stage).await?;
    seen?;
    let since = stage.now().await?;
    stage.sees(&since, "SharesOffered", stage.on_node()).await?;
    stage.published(&shared, true).await
}

async fn reachable(stage: &Stage<'_>) -> Result<(), Error> {
    stage.until("for the API server", async || Ok(stage.pods().list(&ListParams::default()).await.is_ok())).await
}
