//! Asks the API server for one claim, and takes nothing for an answer that isn't one.
use std::{collections::BTreeSet, time::Duration};

use aliquot_model::DeviceName;
use dra_plugin::ClaimRef;
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::{Api, Client};

use super::types::{Answer, Item, Reason};

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whom to ask, and what this node is called there.
#[derive(Clone)]
pub(crate) struct Asker {
    pub(crate) client: Client,
    pub(crate) driver: String,
    pub(crate) pool: String,
}

impl Asker {
    /// What the API server says of the claim that an item names: a read of the store and not of a cache.
    pub(crate) async fn ask(&self, item: &Item) -> Answer {
        let Some(claim) = item.claim() else { return Answer::Unknown("it names no claim".to_owned()) };
        let api: Api<ResourceClaim> = Api::namespaced(self.client.clone(), claim.namespace());
        match tokio::time::timeout(PATIENCE, api.get(claim.name())).await {
            Ok(answer) => self.understand(claim, &item.devices, answer),
            Err(_) => Answer::Unknown(format!("no answer from the API server within {} s", PATIENCE.as_secs())),
        }
    }

    fn understand(
        &self,
        claim: &ClaimRef,
        held: &BTreeSet<DeviceName>,
        answer: Result<ResourceClaim, kube::Error>,
    ) -> Answer {
        let found = match answer {
            Ok(found) => found,
            Err(kube::Error::Api(status)) if is_about(claim, &status) => return Answer::Stale(Reason::Gone),
            Err(error) => return Answer::Unknown(format!("the API server gives no answer: {}", crate::report(&error))),
        };
        match found.metadata.uid.as_deref() {
            None | Some("") => return Answer::Unknown("the API server's answer has no UID".to_owned()),
            Some(uid) if uid != claim.uid().as_str() => return Answer::Stale(Reason::OtherUid),
            Some(_) => {}
        }
        let Some(allocation) = found.status.and_then(|status| status.allocation) else {
            return Answer::Stale(Reason::NotAllocated);
        };
        let results = allocation.devices.and_then(|devices| devices.results).unwrap_or_default();
        let ours = results.into_iter().filter(|result| result.driver == self.driver && result.pool == self.pool);
        let here: BTreeSet<String> = ours.map(|result| result.device).collect();
        if here.is_empty() {
            return Answer::Stale(Reason::Elsewhere);
        }
        if !held.is_empty() && held.iter().all(|device| !here.contains(device.as_str())) {
            return Answer::Stale(Reason::OtherDevices);
        }
        Answer::Here(here.iter().filter_map(|device| device.parse().ok()).collect())
    }
}

/// Whether a refusal says that this very claim doesn't exist. A server that doesn't serve claims, or something between here
/// and there, also answers with 404.
fn is_about(claim: &ClaimRef, status: &kube::core::Status) -> bool {
    let names_it = |details: &kube::core::response::StatusDetails| {
        details.name == claim.name() && details.kind == "resourceclaims" && details.group == "resource.k8s.io"
    };
    status.code == 404 && status.reason == "NotFound" && status.details.as_ref().is_some_and(names_it)
}

#[cfg(test)]
mod tests {
    use kube::core::{Status, response::StatusDetails};
    use serde_json::json;

    use super::*;

    fn claim() -> ClaimRef {
        ClaimRef::new("team", "a", "u1").unwrap()
    }

    fn understand(answer: Result<serde_json::Value, Status>) -> Answer {
        // The client's background task needs a runtime; nothing is sent.
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _guard = runtime.enter();
        let service = tower::service_fn(|_: http::Request<kube::client::Body>| async {
            Ok::<_, std::io::Error>(http::Response::new(kube::client::Body::empty()))
        });
        let asker = Asker {
            client: Client::new(service, "default"),
            driver: "gpu.example.com".into(),
            pool: "gpu.example.com/node1".into(),
        };
        let held = BTreeSet::from(["gpu-0000-41-00".parse().unwrap()]);
        let answer = answer.map(|object| serde_json::from_value(object).unwrap());
        asker.understand(&claim(), &held, answer.map_err(|status| kube::Error::Api(Box::new(status))))
    }

    fn object(uid: &str, results: &[(&str, &str, &str)]) -> serde_json::Value {
        let results: Vec<_> = results
            .iter()
            .map(|(driver, pool, device)| json!({"driver": driver, "pool": pool, "device": device, "request": "gpu"}))
            .collect();
        let status =
            if results.is_empty() { json!({}) } else { json!({"allocation": {"devices": {"results": results}}}) };
        json!({"metadata": {"name": "a", "namespace": "team", "uid": uid}, "spec": {}, "status": status})
    }

    #[test]
    fn each_answer_is_what_it_says() {
        let (ours, pool) = ("gpu.example.com", "gpu.example.com/node1");
        let here = understand(Ok(object("u1", &[(ours, pool, "gpu-0000-41-00")])));
        assert!(matches!(here, Answer::Here(devices) if devices.len() == 1));
        for (object, reason) in [
            (object("u2", &[(ours, pool, "gpu-0000-41-00")]), Reason::OtherUid),
            (object("u1", &[]), Reason::NotAllocated),
            (object("u1", &[(ours, "gpu.example.com/node2", "gpu-0000-41-00")]), Reason::Elsewhere),
            (object("u1", &[("nic.example.com", pool, "gpu-0000-41-00")]), Reason::Elsewhere),
            (object("u1", &[(ours, pool, "gpu-0000-42-00")]), Reason::OtherDevices),
        ] {
            assert_eq!(understand(Ok(object)), Answer::Stale(reason));
        }
        let without_uid = json!({"metadata": {"name": "a"}, "spec": {}});
        assert!(matches!(understand(Ok(without_uid)), Answer::Unknown(_)));
    }

    #[test]
    fn only_a_not_found_about_this_claim_says_that_it_is_gone() {
        let details = |kind: &str, name: &str| {
            let (kind, name, group) = (kind.to_owned(), name.to_owned(), "resource.k8s.io".to_owned());
            let (uid, causes) = (String::new(), vec![]);
            Some(StatusDetails { name, group, kind, uid, causes, retry_after_seconds: 0 })
        };
        let status = |code, reason: &str, details| Status { code, reason: reason.into(), details, ..Status::default() };
        let gone = status(404, "NotFound", details("resourceclaims", "a"));
        assert_eq!(understand(Err(gone)), Answer::Stale(Reason::Gone));
        for no_proof in [
            status(404, "NotFound", None),
            status(404, "Failed to parse error data", None),
            status(404, "NotFound", details("namespaces", "team")),
            status(404, "NotFound", details("resourceclaims", "b")),
            status(403, "Forbidden", details("resourceclaims", "a")),
            status(410, "Gone", details("resourceclaims", "a")),
            status(500, "InternalError", details("resourceclaims", "a")),
        ] {
            let text = format!("{no_proof:?}");
            assert!(matches!(understand(Err(no_proof)), Answer::Unknown(_)), "{text}");
        }
    }
}
