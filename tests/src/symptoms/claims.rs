//! Claims that can't be had, and containers that can't be started.
use std::time::Duration;

use k8s_openapi::api::{
    core::v1::Pod,
    resource::v1::{DeviceClass, ResourceClaim, ResourceClaimTemplate},
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, PostParams},
};
use serde_json::{Value, json};

use super::{
    Error,
    install::{Installation, Variant},
    objects::{Ask, SHARE, WHOLE, pod},
    stage::{About, DRIVER, Stage},
};
use crate::cluster::api;

/// What no node has.
const NO_NODE: &str = "aliquot.dev/no-such-node";
/// How long a pod is looked at that must not go.
const STAYS: Duration = Duration::from_secs(10);

pub(super) async fn held(stage: &Stage<'_>) -> Result<(), Error> {
    let gpu = stage.gpu(0)?;
    stage.started("first", &Ask { gpu: Some(&gpu), ..WHOLE }).await?;
    let since = stage.now().await?;
    stage.start_with("second", &WHOLE, vec![stage.result(&gpu.device)]).await?;
    stage
        .sees_unprepared(&since, "device … is still held by …, whose pod has not ended on this node", "second")
        .await?;
    stage.end("first").await?;
    stage.runs("second").await?;
    Ok(())
}

/// Of nine GPUs a node with eight has none.
pub(super) async fn pending(stage: &Stage<'_>) -> Result<(), Error> {
    const TEXT: &str = "cannot allocate all claims";
    let since = stage.now().await?;
    stage.start("greedy", &Ask { count: 9, ..WHOLE }).await?;
    let refused = async || {
        let pod = stage.pods().get("greedy").await.map_err(api("get pod greedy".to_owned()))?;
        let conditions = pod.status.and_then(|status| status.conditions).unwrap_or_default();
        Ok::<_, Error>(conditions.into_iter().find_map(|condition| condition.message).unwrap_or_default())
    };
    stage.until("for the scheduler's word", async || Ok(refused().await?.contains(TEXT))).await?;
    stage.shows(&since, "Pending: cannot allocate all claims", "Pod greedy", refused().await?);
    Ok(())
}

/// A volume is where the hook writes what the loader reads.
pub(super) async fn refused(stage: &Stage<'_>) -> Result<(), Error> {
    stage.make::<ResourceClaim>(&stage.claims(), SHARE.claim("in-the-way")).await?;
    let mut pod = pod("in-the-way", &stage.plan.pods, "in-the-way");
    pod["spec"]["volumes"] = json!([{"name": "cache", "emptyDir": {}}]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "cache", "mountPath": "/etc/ld.so.cache"}]);
    let since = stage.now().await?;
    stage.make::<Pod>(&stage.pods(), pod).await?;
    stage.sees(&since, "ContainerRefused", About("Pod", "in-the-way")).await.map(drop)
}

/// Without the driver on its node, a pod with a claim can't end.
pub(super) async fn terminating(stage: &Stage<'_>, installation: &Installation<'_>) -> Result<(), Error> {
    stage.started("stays", &SHARE).await?;
    installation.apply(&Variant { only_on: Some(NO_NODE), ..Variant::default() }).await?;
    stage.until("for the driver to go", async || Ok(stage.drivers().await?.is_empty())).await?;
    let since = stage.now().await?;
    let deleted = stage.pods().delete("stays", &DeleteParams::default().grace_period(1)).await;
    deleted.map_err(api("delete pod stays".to_owned()))?;
    tokio::time::sleep(STAYS).await;
    let there = stage.pods().get_opt("stays").await.map_err(api("get pod stays".to_owned()))?;
    let is_leaving = there.is_some_and(|pod| pod.metadata.deletion_timestamp.is_some());
    if !is_leaving {
        return Err(Error::Otherwise("the pod could end without the driver".to_owned()));
    }
    stage.shows(&since, "Terminating and stays", "Pod stays", "it waits for the driver".to_owned());
    installation.apply(&Variant::default()).await?;
    stage.end("stays").await
}

/// Wrong parameters in each kind of object, and the field at which they are refused.
pub(super) async fn written(stage: &Stage<'_>) -> Result<(), Error> {
    let parameters = |kind: &str, rest: Value| {
        let mut all = json!({"apiVersion": format!("{DRIVER}/v1alpha1"), "kind": kind});
        if let (Some(all), Some(rest)) = (all.as_object_mut(), rest.as_object()) {
            all.extend(rest.clone());
        }
        all
    };
    let sharing = |config: Value| json!({"sharing": {"strategy": "TimeSlicing", "timeSlicingConfig": config}});
    let wrong = [
        ("unknown kind", parameters("GpuConfg", json!({})), "kind"),
        ("unknown field", parameters("ShareConfig", json!({"sharng": {}})), "sharng"),
        ("unknown interval", parameters("ShareConfig", sharing(json!({"interval": "Tiny"}))), "interval"),
        (
            "no IOMMU of this name",
            parameters("VfioConfig", json!({"iommu": {"backendPolicy": "Any"}})),
            "backendPolicy",
        ),
        ("another version", json!({"apiVersion": format!("{DRIVER}/v9"), "kind": "ShareConfig"}), "apiVersion"),
    ];
    let since = stage.now().await?;
    for (what, parameters, field) in wrong {
        let claim = Ask { parameters: Some(parameters), ..SHARE }.claim("wrong");
        let devices = &claim["spec"]["devices"];
        let template = json!({"metadata": {"name": "wrong"}, "spec": {"spec": {"devices": devices}}});
        let class = json!({"metadata": {"name": "wrong.aliquot.dev"}, "spec": {"config": devices["config"]}});
        let templates: Api<ResourceClaimTemplate> = Api::namespaced(stage.client.clone(), &stage.plan.namespace);
        let classes: Api<DeviceClass> = Api::all(stage.client.clone());
        let answers = [
            ("ResourceClaim", dry(&stage.claims(), claim.clone()).await?),
            ("ResourceClaimTemplate", dry(&templates, template).await?),
            ("DeviceClass", dry(&classes, class).await?),
        ];
        for (kind, answer) in answers {
            let Some(answer) = answer else {
                return Err(Error::Otherwise(format!("a {kind} with {what} was taken")));
            };
            if !answer.contains("config[0].opaque.parameters") || !answer.contains(field) {
                return Err(Error::Otherwise(format!("a {kind} with {what} isn't refused at its field: {answer}")));
            }
            stage.shows(&since, &format!("refused when written: {what}"), kind, answer);
        }
    }
    Ok(())
}

/// What the API server says against an object that isn't kept; none if it takes it.
async fn dry<K>(objects: &Api<K>, object: Value) -> Result<Option<String>, Error>
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + serde::Serialize + std::fmt::Debug,
{
    let object: K = serde_json::from_value(object)?;
    let name = object.name_any();
    match objects.create(&PostParams { dry_run: true, ..PostParams::default() }, &object).await {
        Ok(_) => Ok(None),
        Err(kube::Error::Api(status)) => Ok(Some(status.message.clone())),
        Err(error) => Err(api(format!("try {name}"))(error).into()),
    }
}
