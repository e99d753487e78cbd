//! The pods and claims by which symptoms are provoked.
use k8s_openapi::{
    api::{core::v1::Pod, resource::v1::ResourceClaim},
    apimachinery::pkg::apis::meta::v1::Status,
};
use kube::{
    ResourceExt as _,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use super::{
    Error,
    stage::{DRIVER, Stage},
};
use crate::cluster::api;

/// A GPU of the simulated node.
pub(super) struct Gpu {
    pub(super) uuid: String,
    /// Its device, and how its other devices' names begin.
    pub(super) device: String,
}

impl Gpu {
    /// What stands for an IOMMU group, by its device.
    pub(super) fn of_place(device: &str) -> Self {
        let place = device.trim_end_matches("-vfio").trim_start_matches("gpu-");
        Self { uuid: format!("GPU-pci-{place}-0"), device: device.to_owned() }
    }
}

/// What a claim asks for.
pub(super) struct Ask<'a> {
    pub(super) class: &'a str,
    /// Of which GPU; of any without.
    pub(super) gpu: Option<&'a Gpu>,
    /// How many devices.
    pub(super) count: u32,
    /// Parameters for the driver.
    pub(super) parameters: Option<Value>,
}

/// A whole GPU.
pub(super) const WHOLE: Ask<'static> = Ask { class: "gpu.aliquot.dev", gpu: None, count: 1, parameters: None };
/// A share of one.
pub(super) const SHARE: Ask<'static> = Ask { class: "share.gpu.aliquot.dev", ..WHOLE };

/// Parameters that ask for a time slice.
pub(super) fn time_slice(interval: &str) -> Value {
    json!({"apiVersion": format!("{DRIVER}/v1alpha1"), "kind": "ShareConfig",
        "sharing": {"strategy": "TimeSlicing", "timeSlicingConfig": {"interval": interval}}})
}

impl Ask<'_> {
    /// The claim.
    pub(super) fn claim(&self, name: &str) -> Value {
        let mut exactly = json!({"deviceClassName": self.class, "count": self.count});
        if let Some(gpu) = self.gpu {
            let expression = format!("device.attributes[{DRIVER:?}].uuid == {:?}", gpu.uuid);
            exactly["selectors"] = json!([{"cel": {"expression": expression}}]);
        }
        let mut devices = json!({"requests": [{"name": "gpu", "exactly": exactly}]});
        if let Some(parameters) = &self.parameters {
            devices["config"] = json!([{"opaque": {"driver": DRIVER, "parameters": parameters}}]);
        }
        json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": name},
            "spec": {"devices": devices}})
    }
}

/// A pod that stays until it is deleted.
pub(super) fn pod(name: &str, image: &str, claim: &str) -> Value {
    let command = ["sh", "-c", "trap 'exit 0' TERM; sleep 86400 & wait"];
    let container =
        json!({"name": "main", "image": image, "command": command, "resources": {"claims": [{"name": "gpu"}]}});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1, "containers": [container],
        "resourceClaims": [{"name": "gpu", "resourceClaimName": claim}]}})
}

impl Stage<'_> {
    /// A GPU by NVML's index.
    pub(super) fn gpu(&self, index: usize) -> Result<Gpu, Error> {
        let gpu = self.node.profile().gpus.get(index);
        let gpu = gpu.ok_or_else(|| Error::Otherwise(format!("the node has no GPU {index}")))?;
        let place = gpu.pci.trim_end_matches(".0").replace(':', "-");
        Ok(Gpu { uuid: gpu.uuid.clone(), device: format!("gpu-{place}") })
    }

    /// A pod with a claim of the same name, for the scheduler.
    pub(super) async fn start(&self, name: &str, ask: &Ask<'_>) -> Result<(), Error> {
        self.make::<ResourceClaim>(&self.claims(), ask.claim(name)).await?;
        self.make::<Pod>(&self.pods(), pod(name, &self.plan.pods, name)).await?;
        Ok(())
    }

    /// The same, and waits until it runs.
    pub(super) async fn started(&self, name: &str, ask: &Ask<'_>) -> Result<Pod, Error> {
        self.start(name, ask).await?;
        self.runs(name).await
    }

    /// A pod whose claim is allocated these by hand, as by a scheduler that knows no better, and which is on the node.
    pub(super) async fn start_with(&self, name: &str, ask: &Ask<'_>, results: Vec<Value>) -> Result<Pod, Error> {
        let mut claim = ask.claim(name);
        // The scheduler's, by which kube-controller-manager knows that it was allocated.
        claim["metadata"]["finalizers"] = json!(["resource.kubernetes.io/delete-protection"]);
        self.make::<ResourceClaim>(&self.claims(), claim).await?;
        let mut waiting = pod(name, &self.plan.pods, name);
        waiting["spec"]["schedulerName"] = "by-hand".into();
        let pod: Pod = self.make(&self.pods(), waiting).await?;
        self.allocate(name, results, &[(&pod.name_any(), &pod.uid().unwrap_or_default())]).await?;
        let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
            "target": {"apiVersion": "v1", "kind": "Node", "name": self.plan.node_name}});
        let (pods, params) = (self.pods(), PostParams::default());
        let bound = pods.create_subresource::<Value, Status>("binding", name, &params, &binding).await;
        bound.map_err(api(format!("bind pod {name}")))?;
        Ok(pod)
    }

    /// Writes what a claim was allocated, and for which pods.
    pub(super) async fn allocate(&self, claim: &str, results: Vec<Value>, pods: &[(&str, &str)]) -> Result<(), Error> {
        let field = json!({"key": "metadata.name", "operator": "In", "values": [self.plan.node_name]});
        let reserved: Vec<Value> =
            pods.iter().map(|(name, uid)| json!({"resource": "pods", "name": name, "uid": uid})).collect();
        let status = json!({"status": {"reservedFor": reserved, "allocation": {"devices": {"results": results},
            "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [field]}]}}}});
        let patched = self.claims().patch_status(claim, &PatchParams::default(), &Patch::Merge(status)).await;
        patched.map_err(api(format!("allocate claim {claim}")))?;
        Ok(())
    }

    /// A device as an allocation's result.
    pub(super) fn result(&self, device: &str) -> Value {
        let pool = format!("{DRIVER}/{}", self.plan.node_name);
        json!({"request": "gpu", "driver": DRIVER, "pool": pool, "device": device})
    }

    /// A share of a device as an allocation's result.
    pub(super) fn share(&self, device: &str, memory: &str) -> Value {
        let mut result = self.result(device);
        result["shareID"] = uuid::Uuid::new_v4().to_string().into();
        result["consumedCapacity"] = json!({"memory": memory, "shares": "1"});
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_and_pods_are_what_the_api_takes() {
        let gpu = Gpu { uuid: "GPU-1".to_owned(), device: "gpu-0000-1b-00".to_owned() };
        let ask = Ask { gpu: Some(&gpu), parameters: Some(time_slice("Short")), ..SHARE };
        let claim: ResourceClaim = serde_json::from_value(ask.claim("one")).unwrap();
        let text = serde_json::to_string(&claim).unwrap();
        assert!(text.contains(r#"device.attributes[\"gpu.aliquot.dev\"].uuid == \"GPU-1\""#), "{text}");
        let pod: Pod = serde_json::from_value(pod("one", "image", "one")).unwrap();
        assert_eq!(pod.spec.unwrap().resource_claims.unwrap()[0].resource_claim_name, claim.metadata.name);
    }
}
