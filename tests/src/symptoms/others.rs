//! Another DRA driver on the node that hands out the same GPUs: this one, once more, under another name.
use k8s_openapi::api::{
    apps::v1::DaemonSet, core::v1::ServiceAccount, rbac::v1::ClusterRoleBinding, resource::v1::ResourceSlice,
};
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};
use serde_json::{Value, json};

use super::{
    Error,
    install::{Installation, NAMESPACE, Variant},
    objects::{Ask, WHOLE},
    stage::{About, Stage},
};
use crate::cluster::{api, delete};

/// The other's name, and that of its objects.
const OTHER: (&str, &str) = ("gpu.other.example.com", "symptoms-other");
/// In a claim that nobody but the other prepares.
const IN_USE: &str = "device … is in use: … got the GPU from …";

pub(super) async fn contested(stage: &Stage<'_>, installation: &Installation<'_>) -> Result<(), Error> {
    let (first, second) = (stage.gpu(0)?, stage.gpu(1)?);
    stage.started("ours", &Ask { gpu: Some(&first), ..WHOLE }).await?;
    let since = stage.now().await?;
    install(stage).await?;
    let seen = async {
        stage.sees_form(&since, ("GPUContested", 0), stage.on_node()).await?;
        stage.tainted(&second.device, true).await?;
        stage.start_with("theirs", &WHOLE, vec![theirs(stage, &first.device)]).await?;
        stage.runs("theirs").await?;
        stage.sees(&since, "GPUUsedTwice", stage.on_node()).await?;
        stage.start_with("holder", &WHOLE, vec![theirs(stage, &second.device)]).await?;
        stage.runs("holder").await?;
        stage.start_with("late", &WHOLE, vec![stage.result(&second.device)]).await?;
        stage.sees_unprepared(&since, IN_USE, "late").await?;
        let warned = Variant { driver: &[("ALIQUOT_OTHER_PLUGINS", "warn")], ..Variant::default() };
        installation.apply(&warned).await?;
        stage.sees_form(&since, ("GPUContested", 1), About("Pod", "late")).await?;
        stage.runs("late").await?;
        installation.apply(&Variant::default()).await
    };
    let seen = seen.await;
    // Without the other its pods couldn't end.
    for pod in ["theirs", "holder", "late"] {
        stage.end(pod).await?;
    }
    uninstall(stage).await?;
    seen?;
    stage.sees(&since, "GPUUncontested", stage.on_node()).await?;
    stage.tainted(&second.device, false).await
}

/// A device as the other publishes it.
fn theirs(stage: &Stage<'_>, device: &str) -> Value {
    let mut result = stage.result(device);
    result["driver"] = OTHER.0.into();
    result["pool"] = format!("{}/{}", OTHER.0, stage.plan.node_name).into();
    result
}

/// Makes the DaemonSet anew under the other name, with an account that may do all that it wants.
async fn install(stage: &Stage<'_>) -> Result<(), Error> {
    let (driver, name) = OTHER;
    let sets: Api<DaemonSet> = Api::namespaced(stage.client.clone(), NAMESPACE);
    let ours = sets.get("aliquot-driver").await.map_err(api("get the DaemonSet".to_owned()))?;
    let mut template = serde_json::to_value(ours.spec.template)?;
    let labels = json!({"app": name});
    template["metadata"] = json!({"labels": labels});
    template["spec"]["serviceAccountName"] = name.into();
    template["spec"]["serviceAccount"] = name.into();
    let plugins = |of: &str| format!("/var/lib/kubelet/plugins/{of}");
    let text = template.to_string().replace(&plugins(super::stage::DRIVER), &plugins(driver));
    let mut template: Value = serde_json::from_str(&text)?;
    for (variable, value) in
        [("ALIQUOT_DRIVER_NAME", driver), ("ALIQUOT_OTHER_PLUGINS", "ignore"), ("ALIQUOT_POLICY", "/etc/none.yaml")]
    {
        let all = template.pointer_mut("/spec/containers/0/env").and_then(Value::as_array_mut);
        if let Some(all) = all {
            all.retain(|one| one["name"] != variable);
            if variable != "ALIQUOT_POLICY" {
                all.push(json!({"name": variable, "value": value}));
            }
        }
    }
    stage.make::<ServiceAccount>(&accounts(stage), json!({"metadata": {"name": name}})).await?;
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"});
    let subject = json!({"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE});
    let binding = json!({"metadata": {"name": name}, "roleRef": role, "subjects": [subject]});
    stage.make::<ClusterRoleBinding>(&Api::all(stage.client.clone()), binding).await?;
    let set = json!({"metadata": {"name": name}, "spec": {"selector": {"matchLabels": labels}, "template": template}});
    stage.make::<DaemonSet>(&sets, set).await?;
    Ok(())
}

/// Takes away all that it has made.
async fn uninstall(stage: &Stage<'_>) -> Result<(), Error> {
    let (driver, name) = OTHER;
    let (params, patience) = (DeleteParams::default(), stage.plan.patience);
    let sets: Api<DaemonSet> = Api::namespaced(stage.client.clone(), NAMESPACE);
    delete(&sets, name, &DeleteParams::foreground(), patience).await?;
    delete(&accounts(stage), name, &params, patience).await?;
    delete(&Api::<ClusterRoleBinding>::all(stage.client.clone()), name, &params, patience).await?;
    // The kubelet would do so, half a minute later.
    let slices = Api::<ResourceSlice>::all(stage.client.clone());
    let theirs = ListParams::default().fields(&format!("spec.driver={driver}"));
    slices.delete_collection(&params, &theirs).await.map_err(api("delete its slices".to_owned()))?;
    let places = "/var/lib/kubelet/plugins/DRIVER /run/aliquot/DRIVER /var/lib/aliquot/DRIVER";
    let files = "/var/run/cdi/DRIVER-* /var/lib/kubelet/plugins_registry/DRIVER*";
    stage.script(&format!("rm -rf {places} {files}").replace("DRIVER", driver)).await?;
    Ok(())
}

fn accounts(stage: &Stage<'_>) -> Api<ServiceAccount> {
    Api::namespaced(stage.client.clone(), NAMESPACE)
}
