//! Reads and writes the statuses of claims. Only the driver's own entries: server-side apply leaves those of others alone.
use std::time::Duration;

use dra_plugin::ClaimRef;
use k8s_openapi::api::resource::v1::{AllocatedDeviceStatus, ResourceClaim};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::entry::is_same;

/// How long one call may take before the connection is taken for dead.
const ONE_CALL: Duration = Duration::from_secs(10);

/// What came of one call.
#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    /// The claim's status has these entries of the driver's.
    There(Vec<AllocatedDeviceStatus>),
    /// There is no such claim any more.
    Gone,
    /// The API server takes no such entries of this claim.
    Invalid(String),
    /// It was taken and not stored.
    Dropped,
    /// The driver may not.
    Refused(String),
    /// It may work later.
    Failed(String),
}

/// Talks to the API server.
pub(super) struct Writer {
    client: kube::Client,
    driver: String,
}

impl Writer {
    /// Writes as the driver of this name.
    pub(super) fn new(client: kube::Client, driver: String) -> Self {
        Self { client, driver }
    }

    /// What is there of the driver's.
    pub(super) async fn read(&self, claim: &ClaimRef) -> Outcome {
        match within(self.claims(claim).get(claim.name())).await {
            Ok(found) if found.metadata.uid.as_deref() == Some(claim.uid().as_str()) => Outcome::There(self.own(found)),
            Ok(_) => Outcome::Gone,
            Err(outcome) => outcome,
        }
    }

    /// Puts these in the place of what is there of the driver's. The claim's UID goes along, so that no other claim of that
    /// name is written to, and the API server takes entries of allocated devices and shares only.
    pub(super) async fn write(&self, claim: &ClaimRef, entries: &[AllocatedDeviceStatus]) -> Outcome {
        let status = json!({
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaim",
            "metadata": {"namespace": claim.namespace(), "name": claim.name(), "uid": claim.uid().as_str()},
            "status": {"devices": entries},
        });
        // Nobody else has a say in these fields.
        let params = PatchParams::apply(&self.driver).force();
        match within(self.claims(claim).patch_status(claim.name(), &params, &Patch::Apply(&status))).await {
            Ok(now) => {
                let stored = self.own(now);
                let is_stored = entries.iter().all(|entry| stored.iter().any(|other| is_same(entry, other)));
                if is_stored { Outcome::There(entries.to_vec()) } else { Outcome::Dropped }
            }
            Err(outcome) => outcome,
        }
    }

    fn claims(&self, claim: &ClaimRef) -> Api<ResourceClaim> {
        Api::namespaced(self.client.clone(), claim.namespace())
    }

    fn own(&self, claim: ResourceClaim) -> Vec<AllocatedDeviceStatus> {
        let mut entries = claim.status.and_then(|status| status.devices).unwrap_or_default();
        entries.retain(|entry| entry.driver == self.driver);
        entries
    }
}

async fn within<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, Outcome> {
    match tokio::time::timeout(ONE_CALL, call).await {
        Ok(answer) => answer.map_err(|error| classified(&error)),
        Err(_) => Err(Outcome::Failed(format!("no answer from the API server within {} s", ONE_CALL.as_secs()))),
    }
}

fn classified(error: &kube::Error) -> Outcome {
    let kube::Error::Api(status) = error else { return Outcome::Failed(crate::report(error)) };
    let causes = || status.details.iter().flat_map(|details| &details.causes);
    match status.code {
        404 | 409 => Outcome::Gone,
        401 | 403 => Outcome::Refused(status.message.clone()),
        // Kubernetes 1.36 checks who may change whose entries as it checks values.
        422 if causes().any(|cause| cause.reason == "FieldValueForbidden") => Outcome::Refused(status.message.clone()),
        422 if causes().any(|cause| is_of_another(&cause.field)) => Outcome::Gone,
        400 | 422 => Outcome::Invalid(status.message.clone()),
        _ => Outcome::Failed(crate::report(error)),
    }
}

/// Whether what is wrong with a field is that another claim has the name, or that the device isn't this claim's any more: a
/// pod that has ended gives its claim back before this is written.
fn is_of_another(field: &str) -> bool {
    let entry = field.strip_prefix("status.devices[").and_then(|rest| rest.strip_suffix(']'));
    field == "metadata.uid" || entry.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use serde_json::json;

    use super::*;

    /// As Kubernetes 1.36 answers.
    fn of(code: u16, reason: &str, field: &str) -> Outcome {
        let status: Status = serde_json::from_value(json!({"status": "Failure", "message": "m", "reason": "Invalid",
            "code": code, "details": {"causes": [{"reason": reason, "message": "m", "field": field}]}}))
        .unwrap();
        classified(&kube::Error::Api(status.boxed()))
    }

    #[test]
    fn a_refusal_is_told_from_a_claim_that_is_no_longer_the_same() {
        let refused = Outcome::Refused("m".into());
        assert_eq!(of(422, "FieldValueForbidden", "status.devices"), refused);
        assert_eq!(of(403, "", ""), refused);
        assert_eq!(of(422, "FieldValueInvalid", "metadata.uid"), Outcome::Gone);
        assert_eq!(of(422, "FieldValueInvalid", "status.devices[12]"), Outcome::Gone);
        assert_eq!(of(404, "", ""), Outcome::Gone);
        assert_eq!(of(422, "FieldValueInvalid", "status.devices[0].data"), Outcome::Invalid("m".into()));
        assert!(matches!(of(500, "", ""), Outcome::Failed(_)));
    }
}
