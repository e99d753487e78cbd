//! Devices by their CDI names: who tells them, and what they are.
use std::{
    fs,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use cdi_spec::Spec;
use kubelet_api::podresources::v1::{
    GetPodResourcesRequest, GetPodResourcesResponse, pod_resources_lister_client::PodResourcesListerClient,
};
use tonic::transport::Endpoint;

use crate::{Error, config::Settings, seen::Container};

/// How long the kubelet may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The devices of the pod's claims, as the kubelet tells them (`Get` of the pod, `dynamic_resources`).
pub(crate) fn by_kubelet(settings: &Settings, container: &Container) -> Result<Vec<String>, Error> {
    let pod = format!("{}/{}", container.namespace(), container.pod());
    let failed = |why: String| Error::Kubelet { pod: pod.clone(), why };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(Error::io("start a runtime"))?;
    let request = GetPodResourcesRequest {
        pod_name: container.pod().to_owned(),
        pod_namespace: container.namespace().to_owned(),
    };
    let answer = runtime.block_on(async {
        let endpoint = Endpoint::from_shared(format!("unix:{}", settings.kubelet.display()));
        let endpoint = endpoint.map_err(|error| error.to_string())?.timeout(PATIENCE);
        let channel = endpoint.connect().await.map_err(|error| error.to_string())?;
        let answer = PodResourcesListerClient::new(channel).get(request).await;
        Ok(answer.map_err(|status| status.message().to_owned())?.into_inner())
    });
    Ok(devices(&answer.map_err(failed)?))
}

fn devices(answer: &GetPodResourcesResponse) -> Vec<String> {
    let containers = answer.pod_resources.iter().flat_map(|pod| &pod.containers);
    let claims = containers.flat_map(|container| &container.dynamic_resources).flat_map(|one| &one.claim_resources);
    let mut all: Vec<String> = claims.flat_map(|claim| &claim.cdi_devices).map(|device| device.name.clone()).collect();
    all.sort();
    all.dedup();
    all
}

/// The host's nodes of a device, all of which a virtual machine can have.
pub(crate) fn nodes(settings: &Settings, device: &str) -> Result<Vec<PathBuf>, Error> {
    let unknown = || Error::Unknown(device.to_owned());
    let (kind, name) = device.split_once('=').ok_or_else(unknown)?;
    let specs = settings.cdi.iter().flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten());
    // What can't be read is another runtime's matter too.
    let specs = specs.filter_map(|file| serde_json::from_slice::<Spec>(&fs::read(file.path()).ok()?).ok());
    let mut of_kind = specs.filter(|spec| spec.kind.to_string() == kind);
    let found = of_kind.find_map(|spec| spec.devices.into_iter().find(|device| device.name.as_str() == name));
    let edits = found.ok_or_else(unknown)?.container_edits;
    let on_host = edits.device_nodes.into_iter().map(|node| (PathBuf::from(&node.path), node.host_path));
    on_host
        .map(|(path, host)| {
            let host = host.map_or_else(|| path.clone(), PathBuf::from);
            if is_vfio(&path) && is_node(&host) {
                Ok(path)
            } else {
                Err(Error::Node { device: device.into(), node: host })
            }
        })
        .collect()
}

/// Whether it is a node by which a monitor takes a device: a group's, or a device's of its own.
pub(crate) fn is_vfio(path: &Path) -> bool {
    path.starts_with("/dev/vfio") || path == Path::new("/dev/iommu")
}

fn is_node(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_char_device())
}

#[cfg(test)]
mod tests {
    use kubelet_api::podresources::v1::{CdiDevice, ClaimResource, ContainerResources, DynamicResource, PodResources};

    use super::*;

    #[test]
    fn devices_of_all_containers_claims_are_told_once() {
        let device = |name: &str| CdiDevice { name: name.to_owned() };
        let claim = ClaimResource { cdi_devices: vec![device("v/c=1"), device("v/c=0")], ..ClaimResource::default() };
        let resource = DynamicResource { claim_resources: vec![claim], ..DynamicResource::default() };
        let container = ContainerResources { dynamic_resources: vec![resource], ..ContainerResources::default() };
        let pod = PodResources { containers: vec![container.clone(), container], ..PodResources::default() };
        assert_eq!(devices(&GetPodResourcesResponse { pod_resources: Some(pod) }), ["v/c=0", "v/c=1"]);
    }

    #[test]
    fn a_device_is_refused_that_no_spec_has_or_whose_node_is_no_device() {
        let dir = tempfile::tempdir().unwrap();
        let node = |path: &str, host: &str| {
            format!(r#"{{"containerEdits": {{"deviceNodes": [{{"path": "{path}", "hostPath": "{host}"}}]}}, "name": "#)
        };
        let spec = format!(
            r#"{{"cdiVersion": "0.5.0", "kind": "example.com/claim", "devices": [{}"good"}}, {}"file"}}, {}"other"}}]}}"#,
            node("/dev/vfio/12", "/dev/null"),
            node("/dev/vfio/13", "/etc/hostname"),
            node("/dev/nvidia0", "/dev/null"),
        );
        fs::write(dir.path().join("a.json"), spec).unwrap();
        fs::write(dir.path().join("b.json"), "no spec").unwrap();
        let settings = Settings {
            runtime: PathBuf::new(),
            reports: PathBuf::new(),
            kubelet: PathBuf::new(),
            cdi: vec![dir.path().to_owned()],
        };
        assert_eq!(nodes(&settings, "example.com/claim=good").unwrap(), [PathBuf::from("/dev/vfio/12")]);
        assert!(matches!(nodes(&settings, "example.com/claim=none"), Err(Error::Unknown(_))));
        for name in ["file", "other"] {
            assert!(matches!(nodes(&settings, &format!("example.com/claim={name}")), Err(Error::Node { .. })));
        }
    }
}
