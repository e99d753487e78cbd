//! The few calls that publishing needs, each with a deadline, and what their errors mean.
use std::time::Duration;

use k8s_openapi::{
    api::{
        core::v1::Node,
        resource::v1::{ResourceSlice, ResourceSliceSpec},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams, Preconditions},
};

use super::{names, pool::NodeName};
use crate::{causes::with_causes, name::DriverName};

/// How long one call may take before the connection is taken for dead.
const ONE_CALL: Duration = Duration::from_secs(10);

/// Why a call did not do what it should.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// Somebody else was faster; what is known must be read anew.
    #[error("{0}")]
    Stale(String),
    /// It may pass, perhaps after the pause that the server asks for.
    #[error("{message}")]
    Busy { message: String, retry_after: Option<Duration> },
    /// The server understood, and takes no such object.
    #[error("{0}")]
    Invalid(String),
    /// The server refuses whatever it is sent: no permission, say.
    #[error("{message}")]
    Refused { message: String, status: u16 },
}

/// Calls for the slices of one node.
#[derive(Clone)]
pub(super) struct SliceApi {
    slices: Api<ResourceSlice>,
    nodes: Api<Node>,
    driver: DriverName,
    node: NodeName,
}

impl SliceApi {
    pub(super) fn new(client: Client, driver: DriverName, node: NodeName) -> Self {
        Self { slices: Api::all(client.clone()), nodes: Api::all(client), driver, node }
    }

    pub(super) fn slices(&self) -> &Api<ResourceSlice> {
        &self.slices
    }

    /// Which slices are this driver's on this node.
    pub(super) fn selector(&self) -> String {
        format!("spec.driver={},spec.nodeName={}", self.driver, self.node)
    }

    /// The Node as an owner, so that its slices go when it does.
    ///
    /// Read whenever slices are created: a Node that was deleted and created again has another UID, and slices with the old
    /// one are collected at once.
    pub(super) async fn owner(&self) -> Result<OwnerReference, CallError> {
        let what = format!("Node {} cannot be read", self.node);
        let node = call(&what, self.nodes.get_metadata(self.node.as_str())).await.map_err(|error| match error {
            // It may be created after its pods' files are there.
            CallError::Stale(message) => CallError::Busy { message, retry_after: None },
            other => other,
        })?;
        Ok(OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: self.node.as_str().to_owned(),
            uid: node.metadata.uid.unwrap_or_default(),
            controller: Some(true),
            ..OwnerReference::default()
        })
    }

    pub(super) async fn create(
        &self,
        index: usize,
        spec: ResourceSliceSpec,
        owner: OwnerReference,
    ) -> Result<ResourceSlice, CallError> {
        let slice = self.slice(index, spec, Some(vec![owner]));
        call("the ResourceSlice cannot be created", self.slices.create(&PostParams::default(), &slice)).await
    }

    /// What would be stored; nothing is.
    pub(super) async fn rehearse(&self, index: usize, spec: ResourceSliceSpec) -> Result<ResourceSlice, CallError> {
        let slice = self.slice(index, spec, None);
        let parameters = PostParams { dry_run: true, ..PostParams::default() };
        call("a ResourceSlice cannot be created as a dry run", self.slices.create(&parameters, &slice)).await
    }

    fn slice(&self, index: usize, spec: ResourceSliceSpec, owners: Option<Vec<OwnerReference>>) -> ResourceSlice {
        let metadata = ObjectMeta {
            generate_name: Some(names::generate_name(index, self.driver.as_str(), self.node.as_str())),
            owner_references: owners,
            ..ObjectMeta::default()
        };
        ResourceSlice { metadata, spec }
    }

    pub(super) async fn update(&self, slice: &ResourceSlice) -> Result<ResourceSlice, CallError> {
        let name = slice.metadata.name.as_deref().unwrap_or_default();
        let what = format!("ResourceSlice {name} cannot be updated");
        call(&what, self.slices.replace(name, &PostParams::default(), slice)).await
    }

    /// A slice as it is now; `None` if it is gone.
    pub(super) async fn read(&self, name: &str) -> Result<Option<ResourceSlice>, CallError> {
        call(&format!("ResourceSlice {name} cannot be read"), self.slices.get_opt(name)).await
    }

    /// Deletes exactly the object that was seen; one that is gone counts as deleted.
    pub(super) async fn delete(&self, seen: &ObjectMeta) -> Result<(), CallError> {
        let name = seen.name.as_deref().unwrap_or_default();
        let parameters = DeleteParams {
            preconditions: Some(Preconditions {
                uid: seen.uid.clone(),
                resource_version: seen.resource_version.clone(),
            }),
            ..DeleteParams::default()
        };
        let what = format!("ResourceSlice {name} cannot be deleted");
        match tokio::time::timeout(ONE_CALL, self.slices.delete(name, &parameters)).await {
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(()),
            Ok(result) => result.map(|_| ()).map_err(|error| classify(&what, &error)),
            Err(_) => Err(overdue(&what)),
        }
    }
}

async fn call<T>(what: &str, future: impl Future<Output = Result<T, kube::Error>>) -> Result<T, CallError> {
    match tokio::time::timeout(ONE_CALL, future).await {
        Ok(result) => result.map_err(|error| classify(what, &error)),
        Err(_) => Err(overdue(what)),
    }
}

fn overdue(what: &str) -> CallError {
    let message = format!("{what}: no answer from the API server within {} s", ONE_CALL.as_secs());
    CallError::Busy { message, retry_after: None }
}

fn classify(what: &str, error: &kube::Error) -> CallError {
    let message = match error {
        // The error's own text repeats all of the status as Rust sees it.
        kube::Error::Api(status) if !status.message.is_empty() => format!("{what}: {}", status.message),
        other => format!("{what}: {}", with_causes(other)),
    };
    let kube::Error::Api(status) = error else { return CallError::Busy { message, retry_after: None } };
    let seconds = status.details.as_ref().map(|details| details.retry_after_seconds).filter(|seconds| *seconds > 0);
    match status.code {
        404 | 409 | 410 => CallError::Stale(message),
        401 | 408 | 429 | 500..=599 => {
            CallError::Busy { message, retry_after: seconds.map(|seconds| Duration::from_secs(seconds.into())) }
        }
        422 => CallError::Invalid(message),
        status => CallError::Refused { message, status },
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn the_servers_words_are_told_once() {
        let status = Status { code: 422, message: "spec.devices: too many".into(), ..Status::default() };
        let error = classify("it cannot be created", &kube::Error::Api(Box::new(status)));
        assert_eq!(error.to_string(), "it cannot be created: spec.devices: too many");
    }

    #[test]
    fn only_what_is_wrong_with_the_object_itself_says_that_it_is_invalid() {
        let of = |code| classify("x", &kube::Error::Api(Box::new(Status { code, ..Status::default() })));
        assert!(matches!(of(422), CallError::Invalid(_)));
        for code in [400, 403, 405, 413] {
            assert!(matches!(of(code), CallError::Refused { status, .. } if status == code), "{code}");
        }
        for code in [401, 408, 429, 500, 503, 504] {
            assert!(matches!(of(code), CallError::Busy { .. }), "{code}");
        }
        for code in [404, 409, 410] {
            assert!(matches!(of(code), CallError::Stale(_)), "{code}");
        }
    }
}
