//! What is asked of the API server and written there: live, one at a time, paced, and only while this replica leads.
use std::time::Duration;

use k8s_openapi::api::{events::v1::Event, resource::v1::ResourceClaim};
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, Preconditions},
    core::Status,
};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use crate::{
    index::{self, Slice, Uid},
    lease::Leadership,
    metrics::Metrics,
    objects,
};

/// Between two requests. When a thousand nodes go at once, it is the API server that has other things to do.
const PACE: Duration = Duration::from_millis(20);
/// One request.
const ONE_CALL: Duration = Duration::from_secs(10);

/// A request without a useful answer. It says nothing about what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// Another replica leads, or may soon.
    #[error("this replica doesn't lead any more")]
    NotLeading,
    /// No answer in time.
    #[error("no answer from the API server: {0}")]
    Silent(&'static str),
    /// A refusal.
    #[error("{what}")]
    Api {
        /// What was tried.
        what: &'static str,
        /// What the API server said.
        source: kube::Error,
    },
}

/// What became of a delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deleted {
    /// It is gone.
    Yes,
    /// It is another one by now, or was gone already.
    Changed,
}

/// What became of an Event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// It is written.
    Now,
    /// It was there already.
    Before,
    /// Its namespace is being deleted, and takes nothing new (admission plugin `NamespaceLifecycle`).
    NoPlace,
}

/// A claim as it is now: what is judged, and all of it.
#[derive(Debug)]
pub(crate) struct LiveClaim {
    pub(crate) claim: objects::Claim,
    pub(crate) whole: Value,
}

/// The way to the API server.
pub(crate) struct Cluster {
    client: Client,
    leadership: Leadership,
    metrics: Metrics,
    /// When the next request may be made.
    next: Instant,
}

impl Cluster {
    pub(crate) fn new(client: Client, leadership: Leadership, metrics: Metrics) -> Self {
        Self { client, leadership, metrics, next: Instant::now() }
    }

    /// The UID of the Node of this name; none if there is none.
    pub(crate) async fn node(&mut self, name: &str) -> Result<Option<Uid>, CallError> {
        let api: Api<objects::Node> = Api::all(self.client.clone());
        let node = self.call("get a Node", found(name, api.get(name))).await?;
        Ok(node.map(|node| index::uid(&node.metadata)))
    }

    /// The UID of the Pod of this name; none if there is none.
    pub(crate) async fn pod(&mut self, namespace: &str, name: &str) -> Result<Option<Uid>, CallError> {
        let api: Api<objects::Pod> = Api::namespaced(self.client.clone(), namespace);
        let pod = self.call("get a Pod", found(name, api.get(name))).await?;
        Ok(pod.map(|pod| index::uid(&pod.metadata)))
    }

    /// The claim of this name; none if there is none.
    pub(crate) async fn claim(&mut self, namespace: &str, name: &str) -> Result<Option<LiveClaim>, CallError> {
        let api = self.claims(namespace);
        let live = async {
            let Some(whole) = found(name, api.get(name)).await? else { return Ok(None) };
            let whole = serde_json::to_value(whole).map_err(kube::Error::SerdeError)?;
            let claim = serde::Deserialize::deserialize(&whole).map_err(kube::Error::SerdeError)?;
            Ok(Some(LiveClaim { claim, whole }))
        };
        self.call("get a ResourceClaim", live).await
    }

    /// The driver's slices of a node.
    pub(crate) async fn slices(&mut self, driver: &str, node: &str) -> Result<Vec<Slice>, CallError> {
        let api: Api<objects::Slice> = Api::all(self.client.clone());
        let of_node = ListParams::default().fields(&format!("spec.driver={driver},spec.nodeName={node}"));
        let slices = self.call("list ResourceSlices", api.list(&of_node)).await?;
        Ok(slices.items.iter().map(Slice::new).collect())
    }

    /// Deletes a slice if it is still what was judged.
    pub(crate) async fn delete(&mut self, name: &str, slice: &Slice) -> Result<Deleted, CallError> {
        let api: Api<objects::Slice> = Api::all(self.client.clone());
        let preconditions = Some(Preconditions {
            uid: Some(slice.uid.to_string()),
            resource_version: Some(slice.resource_version.to_string()),
        });
        let parameters = DeleteParams { preconditions, ..DeleteParams::default() };
        let deleting = async {
            match api.delete(name, &parameters).await {
                Ok(_) => Ok(Deleted::Yes),
                Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => Ok(Deleted::Changed),
                Err(error) => Err(error),
            }
        };
        self.call("delete a ResourceSlice", deleting).await
    }

    /// Writes a claim's status; false if the claim has changed since the patch was made.
    pub(crate) async fn patch_status(&mut self, namespace: &str, name: &str, patch: &Value) -> Result<bool, CallError> {
        let api = self.claims(namespace);
        let writing = async {
            match api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => Ok(true),
                Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => Ok(false),
                Err(error) => Err(error),
            }
        };
        self.call("update a ResourceClaim's status", writing).await
    }

    /// Writes an Event.
    pub(crate) async fn tell(&mut self, event: &Event) -> Result<Told, CallError> {
        let namespace = event.metadata.namespace.as_deref().unwrap_or("default");
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let writing = async {
            match api.create(&PostParams::default(), event).await {
                Ok(_) => Ok(Told::Now),
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(Told::Before),
                Err(kube::Error::Api(status)) if is_terminating(&status) => Ok(Told::NoPlace),
                Err(error) => Err(error),
            }
        };
        self.call("create an Event", writing).await
    }

    fn claims(&self, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, &ApiResource::erase::<ResourceClaim>(&()))
    }

    async fn call<T>(
        &mut self,
        what: &'static str,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, CallError> {
        tokio::time::sleep_until(self.next).await;
        let now = Instant::now();
        self.next = now + PACE;
        let until = self.leadership.until().ok_or(CallError::NotLeading)?;
        let result = match timeout_at(until.min(now + ONE_CALL), request).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(source)) => CallError::Api { what, source },
            Err(_) => CallError::Silent(what),
        };
        self.metrics.failed(what).inc();
        Err(result)
    }
}

/// As `corev1.NamespaceTerminatingCause` names it.
fn is_terminating(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 403 && causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

/// None only where the API server says that just this object isn't there. A proxy's 404, or that of a server which doesn't
/// know the resource, names no object.
async fn found<T>(name: &str, request: impl Future<Output = kube::Result<T>>) -> kube::Result<Option<T>> {
    match request.await {
        Ok(object) => Ok(Some(object)),
        Err(kube::Error::Api(status))
            if status.code == 404
                && status.reason == "NotFound"
                && status.details.as_ref().is_some_and(|details| details.name == name) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    async fn answer(code: u16, reason: &str, name: &str) -> kube::Result<Option<()>> {
        let status = json!({"status": "Failure", "code": code, "reason": reason, "details": {"name": name}});
        let status: Status = serde_json::from_value(status).map_err(kube::Error::SerdeError)?;
        found("n1", async { Err(kube::Error::Api(status.boxed())) }).await
    }

    #[tokio::test]
    async fn only_an_answer_that_names_the_object_says_that_it_is_gone() {
        assert_eq!(answer(404, "NotFound", "n1").await.unwrap(), None);
        for (code, reason, name) in
            [(404, "NotFound", ""), (404, "", "n1"), (500, "NotFound", "n1"), (404, "NotFound", "n2")]
        {
            assert!(answer(code, reason, name).await.is_err(), "{code} {reason} {name}");
        }
        assert_eq!(found("n1", async { Ok(1) }).await.unwrap(), Some(1));
    }
}
