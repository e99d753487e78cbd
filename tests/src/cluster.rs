//! Waiting on a real cluster: for an object to be so, or to be gone.
use std::{fmt::Debug, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Resource,
    api::DeleteParams,
    runtime::wait::{Condition, await_condition, conditions::is_deleted},
};
use serde::de::DeserializeOwned;

/// Why it couldn't be found out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server.
    #[error("could not {what}")]
    Api {
        /// What was tried.
        what: String,
        /// What it said.
        source: Box<kube::Error>,
    },
    /// It was watched for.
    #[error("could not watch {what}")]
    Watch {
        /// What was waited for.
        what: String,
        /// What the API server said.
        source: Box<kube::runtime::wait::Error>,
    },
    /// It took too long.
    #[error("gave up to wait for {what} after {} s", after.as_secs())]
    Late {
        /// What was waited for.
        what: String,
        /// For how long.
        after: Duration,
    },
}

/// Waits for an object to be so.
pub(crate) async fn until<K>(
    objects: &Api<K>,
    name: &str,
    condition: impl Condition<K>,
    what: &str,
    patience: Duration,
) -> Result<Option<K>, Error>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    match tokio::time::timeout(patience, await_condition(objects.clone(), name, condition)).await {
        Ok(found) => found.map_err(|source| Error::Watch { what: what.to_owned(), source: Box::new(source) }),
        Err(_) => Err(Error::Late { what: what.to_owned(), after: patience }),
    }
}

/// Deletes an object, if it is there, and waits until it is gone.
pub(crate) async fn delete<K>(
    objects: &Api<K>,
    name: &str,
    params: &DeleteParams,
    patience: Duration,
) -> Result<(), Error>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let there = objects.get_opt(name).await.map_err(api(format!("get {name}")))?;
    let Some(uid) = there.and_then(|object| object.meta().uid.clone()) else { return Ok(()) };
    match objects.delete(name, params).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(()),
        deleted => deleted.map(drop).map_err(api(format!("delete {name}")))?,
    }
    until(objects, name, is_deleted(&uid), &format!("the end of {name}"), patience).await.map(drop)
}

/// An API server's answer with what was tried.
pub(crate) fn api(what: String) -> impl FnOnce(kube::Error) -> Error {
    |source| Error::Api { what, source: Box::new(source) }
}

/// Whether one of a pod's containers runs.
pub(crate) fn is_running(pod: &Pod) -> bool {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().any(|status| status.state.as_ref().is_some_and(|state| state.running.is_some()))
}

/// Whether a pod won't run any more.
pub(crate) fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Failed" | "Succeeded"))
}
