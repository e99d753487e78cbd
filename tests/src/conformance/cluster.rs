//! The cluster: a namespace of the suite's own, and its pods.
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::{
    api::{
        core::v1::{Namespace, Pod},
        resource::v1::ResourceClaim,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, ListParams, PostParams},
};
use serde::de::DeserializeOwned;

use super::{
    Missing, Offer,
    command::{self, Output},
    pods::CONTAINER,
};
use crate::cluster::{self, api, delete, has_ended, is_running, until};

/// Why a step couldn't be taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cluster.
    #[error(transparent)]
    Cluster(#[from] cluster::Error),
    /// It took too long.
    #[error("gave up to {what} after {} s{story}", after.as_secs())]
    Late {
        /// What was tried.
        what: String,
        /// For how long.
        after: Duration,
        /// What is known of the object.
        story: String,
    },
    /// A pod that isn't to end did.
    #[error("pod {name} has ended{story}")]
    Ended {
        /// Its name.
        name: String,
        /// What is known of it.
        story: String,
    },
    /// Nothing that the scheduler made says which GPU a pod has.
    #[error(
        "pod {0} runs, but there is no claim that the scheduler made for its nvidia.com/gpu: a device plugin serves it on this \
         node, or the cluster lacks the feature gate DRAExtendedResource"
    )]
    NoClaim(String),
    /// Someone else's.
    #[error("namespace {0} is there already: delete it, or name another by --namespace")]
    Taken(String),
    /// The cluster isn't prepared.
    #[error(transparent)]
    Missing(#[from] Missing),
}

/// A cluster, by its API server.
pub struct Cluster {
    client: Client,
    namespace: String,
    patience: Duration,
}

impl Cluster {
    /// One in which `namespace` is made for the pods, and things may take as long as `patience`.
    pub fn new(client: Client, namespace: &str, patience: Duration) -> Self {
        Self { client, namespace: namespace.to_owned(), patience }
    }

    /// What it has for the pods.
    ///
    /// # Errors
    ///
    /// What it lacks, and what the API server doesn't say.
    pub async fn offer(&self) -> Result<Offer, Error> {
        let (classes, runtimes, slices) = futures::try_join!(self.all(), self.all(), self.all())?;
        Ok(Offer::read(&classes, &runtimes, &slices)?)
    }

    /// All objects of a kind.
    async fn all<K>(&self) -> Result<Vec<K>, Error>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let list = Api::<K>::all(self.client.clone()).list(&ListParams::default()).await;
        Ok(list.map_err(api(format!("list {}", K::plural(&()))))?.items)
    }

    /// Every claim of the cluster.
    pub(super) async fn claims(&self) -> Result<Vec<ResourceClaim>, Error> {
        self.all().await
    }

    /// Makes the namespace.
    pub(super) async fn open(&self) -> Result<(), Error> {
        let metadata = ObjectMeta { name: Some(self.namespace.clone()), ..ObjectMeta::default() };
        let namespace = Namespace { metadata, ..Namespace::default() };
        match Api::all(self.client.clone()).create(&PostParams::default(), &namespace).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_already_exists() => Err(Error::Taken(self.namespace.clone())),
            Err(error) => Err(api(format!("make namespace {}", self.namespace))(error).into()),
        }
    }

    /// Deletes the namespace with all in it, and waits until both are gone.
    ///
    /// # Errors
    ///
    /// What is left.
    pub(super) async fn close(&self) -> Result<(), Error> {
        let pods = self.pods().list(&ListParams::default()).await.map_err(api("list the pods".to_owned()))?;
        let names: Vec<String> = pods.items.into_iter().filter_map(|pod| pod.metadata.name).collect();
        for removed in join_all(names.iter().map(|name| self.remove(name))).await {
            removed?;
        }
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        Ok(delete(&namespaces, &self.namespace, &DeleteParams::default(), self.patience).await?)
    }

    /// Makes a pod.
    pub(super) async fn create(&self, pod: &Pod) -> Result<(), Error> {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let made = self.pods().create(&PostParams::default(), pod).await;
        made.map_err(api(format!("make pod {name}")))?;
        Ok(())
    }

    /// Waits for a pod's container to run.
    pub(super) async fn running(&self, name: &str) -> Result<Pod, Error> {
        let pod = self.watched(name, "run", |pod: &Pod| is_running(pod) || has_ended(pod)).await?;
        if has_ended(&pod) { Err(Error::Ended { name: name.to_owned(), story: story(&pod) }) } else { Ok(pod) }
    }

    /// Waits for the scheduler's word on a pod: a node, or why there is none.
    pub(super) async fn scheduled(&self, name: &str) -> Result<Result<String, String>, Error> {
        let pod = self.watched(name, "be scheduled", |pod: &Pod| node(pod).is_some() || refusal(pod).is_some()).await?;
        Ok(node(&pod).map(ToOwned::to_owned).ok_or_else(|| refusal(&pod).unwrap_or_default().to_owned()))
    }

    /// The claim that the scheduler made for a pod's extended resources.
    pub(super) async fn claim(&self, pod: &Pod) -> Result<ResourceClaim, Error> {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let made = pod.status.as_ref().and_then(|status| status.extended_resource_claim_status.as_ref());
        let made = made.map(|made| made.resource_claim_name.as_str()).ok_or(Error::NoClaim(name))?;
        let claims: Api<ResourceClaim> = Api::namespaced(self.client.clone(), &self.namespace);
        Ok(claims.get(made).await.map_err(api(format!("get claim {made}")))?)
    }

    /// Runs a command in a pod.
    pub(super) async fn exec(&self, pod: &str, command: &[&str]) -> Result<Output, Error> {
        command::run(&self.pods(), pod, CONTAINER, command).await
    }

    /// Deletes a pod and waits until it is gone.
    pub(super) async fn remove(&self, name: &str) -> Result<(), Error> {
        // `sleep` as a container's first process takes no SIGTERM.
        Ok(delete(&self.pods(), name, &DeleteParams::default().grace_period(1), self.patience).await?)
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn watched(&self, name: &str, to: &str, holds: impl Fn(&Pod) -> bool + Send + Sync) -> Result<Pod, Error> {
        let what = format!("pod {name} to {to}");
        let found = until(&self.pods(), name, |pod: Option<&Pod>| pod.is_some_and(&holds), &what, self.patience).await;
        match found {
            Ok(Some(pod)) => Ok(pod),
            Ok(None) => Err(Error::Ended { name: name.to_owned(), story: ": it was deleted".to_owned() }),
            Err(cluster::Error::Late { after, .. }) => {
                let story = self.pods().get(name).await.map(|pod| story(&pod)).unwrap_or_default();
                Err(Error::Late { what: format!("wait for {what}"), after, story })
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// The node to which the scheduler has bound it.
pub(super) fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

/// Why the scheduler found no node.
fn refusal(pod: &Pod) -> Option<&str> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let refused =
        conditions.iter().find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
    refused.message.as_deref()
}

/// What is known of a pod that doesn't run, to be put behind an error.
fn story(pod: &Pod) -> String {
    let Some(status) = &pod.status else { return String::new() };
    let waiting = status.container_statuses.iter().flatten().filter_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        Some(format!("{} {}", waiting.reason.as_deref()?, waiting.message.as_deref().unwrap_or_default().trim()))
    });
    let phase = status.phase.clone().into_iter();
    let told: Vec<String> = phase.chain(refusal(pod).map(ToOwned::to_owned)).chain(waiting).collect();
    format!(": {}", told.join("; "))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    fn pod(status: &Value) -> Pod {
        from_value(json!({"spec": {"containers": []}, "status": status})).unwrap()
    }

    #[test]
    fn a_pod_that_does_not_run_says_why() {
        let message = "0/1 nodes are available: 1 cannot allocate all claims";
        let condition =
            json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message});
        let unscheduled = pod(&json!({"phase": "Pending", "conditions": [condition]}));
        assert_eq!(refusal(&unscheduled), Some(message));
        assert_eq!(story(&unscheduled), format!(": Pending; {message}"));
        let waiting = json!({"reason": "ErrImagePull", "message": "no such host\n"});
        let container = json!({"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": waiting}});
        let pulling = pod(&json!({"phase": "Pending", "containerStatuses": [container]}));
        assert_eq!(story(&pulling), ": Pending; ErrImagePull no such host");
        assert!(!is_running(&pulling) && !has_ended(&pulling) && has_ended(&pod(&json!({"phase": "Failed"}))));
    }
}
