//! Shares of GPUs as a scheduler would have given them out, for pods of the suites' choice.
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use kubelet_api::dra::v1::Claim;
use serde_json::json;

use crate::testbed::{DRIVER, NODE, Result, Testbed};

impl Testbed {
    /// A share of a GPU for pods, as `(name, uid)`, prepared; and its id.
    pub async fn share(&self, name: &str, gpu: &str, pods: &[(&str, &str)]) -> Result<(Claim, String)> {
        let id = format!("5e2a0c1e-0000-4000-8000-{:012}", name.len());
        let result = json!({"driver": DRIVER, "pool": format!("{DRIVER}/{NODE}"), "device": format!("{gpu}-shared"),
            "request": "gpu", "shareID": id, "consumedCapacity": {"shares": "1", "memory": "8155Mi"}});
        let claim = self.allocated_as(name, json!({"devices": {"results": [result]}})).await?;
        let users: Vec<_> =
            pods.iter().map(|(name, uid)| json!({"resource": "pods", "name": name, "uid": uid})).collect();
        let api: Api<ResourceClaim> = Api::namespaced(self.client.clone(), "default");
        let status = Patch::Merge(json!({"status": {"reservedFor": users}}));
        api.patch_status(name, &PatchParams::default(), &status).await?;
        self.prepare(&claim).await??;
        Ok((claim, id))
    }
}
