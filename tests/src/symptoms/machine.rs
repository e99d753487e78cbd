//! GPUs for virtual machines through the real kubelet and container runtime, with a stand-in for Kata Containers.
use std::{fs, path::PathBuf};

use k8s_openapi::api::{core::v1::Pod, node::v1::RuntimeClass, resource::v1::ResourceClaim};
use kube::{Api, ResourceExt as _, api::DeleteParams};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Error,
    install::{Installation, Variant},
    objects::{Ask, Gpu, WHOLE, pod},
    stage::{DRIVER, Stage},
    switched::{self, HOST, Switching},
};
use crate::{
    cluster::{api, delete},
    node::Artifacts,
    passthrough::Function,
};

/// Cards that vfio-pci has: their addresses, devices and IOMMU groups, in the order of the PCI bus.
const CARDS: [(&str, &str, u32); 2] =
    [("0000:f1:00.0", "gpu-0000-f1-00-vfio", 91), ("0000:f2:00.0", "gpu-0000-f2-00-vfio", 92)];
/// The node of the first card by iommufd.
const OF_ITS_OWN: u32 = 7;
/// The class by which pods name the runtime.
const CLASS: &str = "symptoms-vm";

/// What the stand-in wrote of a sandbox or of a container.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
struct Seen {
    annotated: Vec<String>,
    told: Vec<String>,
    nodes: Vec<PathBuf>,
}

/// What it must have seen.
struct Expected<'a> {
    claim: &'a str,
    device: &'a str,
    /// The devices of annotations.
    annotated: &'a [&'a str],
    /// The nodes that the virtual machine gets.
    nodes: &'a [&'a str],
    /// Those that the container gets besides, for the whole claim.
    more: &'a [&'a str],
}

/// Puts the stand-in where the container runtime looks for it.
pub(super) fn install(stage: &Stage<'_>, artifacts: &Artifacts, runtime: &str) -> Result<(), Error> {
    let dir = stage.node.path("vm");
    fs::create_dir_all(&dir)?;
    fs::copy(artifacts.vm_runtime(), dir.join("vm-runtime"))?;
    let settings = json!({"runtime": runtime, "reports": dir.join("reports"),
        "kubelet": "/var/lib/kubelet/pod-resources/kubelet.sock", "cdi": ["/etc/cdi", "/var/run/cdi"]});
    Ok(fs::write(dir.join("vm-runtime.json"), settings.to_string())?)
}

/// Shows it while there is the class by which pods name the runtime.
pub(super) async fn with_class(
    stage: &Stage<'_>,
    handler: &str,
    shown: impl Future<Output = Result<(), Error>>,
) -> Result<(), Error> {
    let classes: Api<RuntimeClass> = Api::all(stage.client.clone());
    stage.make(&classes, json!({"metadata": {"name": CLASS}, "handler": handler})).await?;
    let shown = shown.await;
    delete(&classes, CLASS, &DeleteParams::default(), stage.plan.patience).await?;
    shown
}

/// One that is taken from NVIDIA's driver for it, and is back for whoever is next.
pub(super) async fn switched(stage: &Stage<'_>, installation: &Installation<'_>) -> Result<(), Error> {
    let switching = Switching::begin(stage, installation).await?;
    let expected =
        Expected { claim: "taken", device: &switching.device, annotated: &[], nodes: &[switched::NODE], more: &[] };
    start(stage, &expected, None).await?;
    sees(stage, "a GPU that was NVIDIA's driver's", &expected).await?;
    switching.is_with(stage, ["vfio-pci"; 2])?;
    let since = stage.now().await?;
    stage.start("whole", &Ask { gpu: Some(&switching.gpu), ..WHOLE }).await?;
    waits(stage, "whole").await?;
    stage.end(expected.claim).await?;
    stage.runs("whole").await?;
    switching.is_with(stage, HOST)?;
    let shown = "NVIDIA's driver has it again, and the next pod runs";
    stage.shows(&since, "passthrough: the GPU goes back", "Pod whole", shown.to_owned());
    stage.end("whole").await?;
    switching.end(stage, installation).await
}

/// Cards that vfio-pci has.
pub(super) async fn machine(stage: &Stage<'_>, installation: &Installation<'_>) -> Result<(), Error> {
    installation.apply(&Variant { components: &["vfio-alias"], ..Variant::default() }).await?;
    for (pci, _, group) in CARDS {
        stage.node.plug(Function::gpu(pci, "vfio-pci", group))?;
        stage.node.open_group(group)?;
    }
    for (_, device, _) in CARDS {
        stage.published(device, true).await?;
    }
    let [(_, first, _), (_, second, _)] = CARDS;
    let group = Expected { claim: "cold", device: second, annotated: &[], nodes: &["/dev/vfio/92"], more: &[] };
    start(stage, &group, None).await?;
    sees(stage, "a claim's group, told by the kubelet", &group).await?;
    // The same card for another claim: it waits for the first virtual machine's end.
    let next = Expected { claim: "next", annotated: &["nvidia.com/pgpu=1"], ..group };
    start(stage, &next, None).await?;
    let since = stage.now().await?;
    waits(stage, next.claim).await?;
    stage.shows(&since, "passthrough: one virtual machine at a time", "Pod next", "it waits for pod cold".to_owned());
    stage.end(group.claim).await?;
    sees(stage, "the same by annotation too", &next).await?;
    stage.node.open_device(CARDS[0].0, OF_ITS_OWN)?;
    let own = Expected {
        claim: "iommufd",
        device: first,
        annotated: &[],
        nodes: &["/dev/vfio/devices/vfio7"],
        more: &["/dev/iommu"],
    };
    start(stage, &own, Some(json!({"backendPolicy": "PreferIommuFD", "enableAPIDevice": true}))).await?;
    sees(stage, "a card by iommufd", &own).await?;
    for pod in [next.claim, own.claim] {
        stage.end(pod).await?;
    }
    for (pci, device, group) in CARDS {
        stage.node.close_group(group)?;
        stage.node.unplug(pci)?;
        stage.published(device, false).await?;
    }
    installation.apply(&Variant::default()).await
}

/// Makes a pod of the runtime with a claim to the card.
async fn start(stage: &Stage<'_>, expected: &Expected<'_>, iommu: Option<Value>) -> Result<(), Error> {
    let card = Gpu::of_place(expected.device);
    let parameters = |iommu| json!({"apiVersion": format!("{DRIVER}/v1alpha1"), "kind": "VfioConfig", "iommu": iommu});
    let ask = Ask { class: "vfio.gpu.aliquot.dev", gpu: Some(&card), parameters: iommu.map(parameters), ..WHOLE };
    let name = expected.claim;
    stage.make::<ResourceClaim>(&stage.claims(), ask.claim(name)).await?;
    let mut pod = pod(name, &stage.plan.pods, name);
    pod["spec"]["runtimeClassName"] = CLASS.into();
    for device in expected.annotated {
        pod["metadata"]["annotations"] = json!({"cdi.k8s.io/gpu": device});
    }
    stage.make::<Pod>(&stage.pods(), pod).await?;
    Ok(())
}

/// Until the scheduler has found no node for a pod.
async fn waits(stage: &Stage<'_>, name: &str) -> Result<(), Error> {
    stage
        .until("for the scheduler's word", async || {
            let pod = stage.pods().get(name).await.map_err(api(format!("get pod {name}")))?;
            let conditions = pod.status.and_then(|status| status.conditions).unwrap_or_default();
            Ok(conditions.iter().any(|one| one.type_ == "PodScheduled" && one.status == "False"))
        })
        .await
}

/// Waits for the pod, and compares what the runtime saw of it with what its claim was allocated.
async fn sees(stage: &Stage<'_>, what: &str, expected: &Expected<'_>) -> Result<(), Error> {
    let since = stage.now().await?;
    stage.runs(expected.claim).await?;
    let claim = stage.claims().get(expected.claim).await.map_err(api(format!("get claim {}", expected.claim)))?;
    let of = |container: &str| -> Result<Seen, Error> {
        let file = format!("{}.{}.{container}.json", stage.plan.namespace, expected.claim);
        Ok(serde_json::from_slice(&fs::read(stage.node.path("vm/reports").join(file))?)?)
    };
    let (sandbox, container) = (of("")?, of("main")?);
    judge(expected, &claim.uid().unwrap_or_default(), &sandbox, &container).map_err(Error::Otherwise)?;
    let told = format!("{} {}", sandbox.told.join(", "), nodes(&container.nodes));
    stage.shows(&since, &format!("passthrough: {what}"), &format!("Pod {}", expected.claim), told);
    Ok(())
}

fn nodes(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn judge(expected: &Expected<'_>, uid: &str, sandbox: &Seen, container: &Seen) -> Result<(), String> {
    let paths = |all: &[&str]| all.iter().map(PathBuf::from).collect::<Vec<_>>();
    let told = format!("{DRIVER}/claim={uid}-{}", expected.device);
    // The claim's own device, which has the nodes that the whole claim shares, has none for a monitor.
    let is_told = sandbox.told.contains(&told) && sandbox.told.iter().all(|one| one.contains(uid));
    let mut with_more = [paths(expected.nodes), paths(expected.more)].concat();
    with_more.sort();
    let mut had = container.nodes.clone();
    had.sort();
    if !is_told {
        return Err(format!("the kubelet told of {:?}, and not of {told}", sandbox.told));
    }
    if sandbox.annotated != expected.annotated {
        return Err(format!("the pod's annotations named {:?} to the runtime", sandbox.annotated));
    }
    if sandbox.nodes != paths(expected.nodes) {
        return Err(format!("the virtual machine would have {}", nodes(&sandbox.nodes)));
    }
    if had == with_more { Ok(()) } else { Err(format!("the container has {}", nodes(&had))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claims_device_and_its_nodes_must_be_told_and_no_others() {
        let expected =
            Expected { claim: "c", device: "gpu-vfio", annotated: &["k=1"], nodes: &["/dev/vfio/1"], more: &[] };
        let seen = |told: &str, annotated: &[&str], nodes: &[&str]| Seen {
            annotated: annotated.iter().map(|one| (*one).to_owned()).collect(),
            told: vec![told.to_owned()],
            nodes: nodes.iter().map(PathBuf::from).collect(),
        };
        let (told, container) = ("gpu.aliquot.dev/claim=u1-gpu-vfio", seen("", &[], &["/dev/vfio/1"]));
        let judged = |sandbox: &Seen, container: &Seen| judge(&expected, "u1", sandbox, container).is_ok();
        assert!(judged(&seen(told, &["k=1"], &["/dev/vfio/1"]), &container));
        assert!(!judged(&seen("gpu.aliquot.dev/claim=u2-gpu-vfio", &["k=1"], &["/dev/vfio/1"]), &container));
        assert!(!judged(&seen(told, &[], &["/dev/vfio/1"]), &container));
        assert!(!judged(&seen(told, &["k=1"], &["/dev/vfio/2"]), &container));
        assert!(!judged(&seen(told, &["k=1"], &["/dev/vfio/1"]), &seen("", &[], &["/dev/vfio/1", "/dev/nvidia0"])));
    }
}
