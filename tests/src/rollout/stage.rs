//! The namespace that is made for the pods, and what the cluster says of them.
use std::{collections::BTreeMap, fmt::Debug, time::Duration};

use futures::future::try_join_all;
use k8s_openapi::api::{
    core::v1::{Event, Namespace, Pod},
    resource::v1::ResourceClaimTemplate,
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{DeleteParams, ListParams, PostParams},
    runtime::wait::{Condition, await_condition, conditions::is_deleted},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Plan, objects::Kind};

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
    /// It ran, and no longer does.
    #[error("it ended")]
    Ended,
    /// Someone else's.
    #[error("namespace {0} is there already: delete it, or name another by --namespace")]
    Taken(String),
    /// No driver of this project.
    #[error("DaemonSet {0} has no container \"driver\"")]
    NoContainer(String),
    /// Someone wanted it so.
    #[error("it was stopped")]
    Stopped,
    /// Of this program.
    #[error("an object isn't what the API takes")]
    Object(#[from] serde_json::Error),
}

/// The namespace.
pub(super) struct Stage {
    client: Client,
    namespace: String,
    patience: Duration,
}

impl Stage {
    /// Makes it, with the templates.
    pub(super) async fn open(client: Client, plan: &Plan) -> Result<Self, Error> {
        let stage = Self { client, namespace: plan.namespace.clone(), patience: plan.patience };
        let namespace = json!({"metadata": {"name": plan.namespace}});
        match stage.create::<Namespace>(&Api::all(stage.client.clone()), namespace).await {
            Err(Error::Api { source, .. }) if matches!(&*source, kube::Error::Api(status) if status.is_already_exists()) =>
            {
                return Err(Error::Taken(plan.namespace.clone()));
            }
            made => made?,
        }
        let templates: Api<ResourceClaimTemplate> = Api::namespaced(stage.client.clone(), &stage.namespace);
        for kind in Kind::ALL {
            stage.create(&templates, kind.template()).await?;
        }
        Ok(stage)
    }

    /// Starts a pod of each kind that is to stay.
    pub(super) async fn keep(&self, image: &str) -> Result<Vec<Pod>, Error> {
        try_join_all(Kind::ALL.map(|kind| async move {
            let name = format!("kept-{}", kind.name());
            self.start(kind, &name, image).await?;
            self.pods().get(&name).await.map_err(api(format!("get pod {name}")))
        }))
        .await
    }

    /// Which of those are no longer what they were.
    pub(super) async fn touched(&self, kept: &[Pod]) -> Result<Vec<String>, Error> {
        let mut touched = Vec::new();
        for pod in kept {
            let name = pod.name_any();
            let now = self.pods().get_opt(&name).await.map_err(api(format!("get pod {name}")))?;
            if now.as_ref().and_then(containers) != containers(pod) {
                touched.push(name);
            }
        }
        Ok(touched)
    }

    /// Makes a pod and waits until it runs.
    pub(super) async fn start(&self, kind: Kind, name: &str, image: &str) -> Result<(), Error> {
        self.create(&self.pods(), kind.pod(name, image)).await?;
        let holds = |pod: Option<&Pod>| pod.is_none_or(|pod| is_running(pod) || has_ended(pod));
        let pod = until(&self.pods(), name, holds, &format!("pod {name} to run"), self.patience).await?;
        if pod.as_ref().is_some_and(is_running) { Ok(()) } else { Err(Error::Ended) }
    }

    /// Deletes a pod and waits until it is gone.
    pub(super) async fn end(&self, name: &str) -> Result<(), Error> {
        delete(&self.pods(), name, self.patience).await
    }

    /// How many warnings of each reason there were of anything here.
    pub(super) async fn warnings(&self) -> Result<BTreeMap<String, u64>, Error> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let listed = events.list(&ListParams::default().fields("type=Warning")).await;
        let mut warnings = BTreeMap::new();
        for event in listed.map_err(api("list the events".to_owned()))?.items {
            // Events of the same kind are one, with a number.
            let series = event.series.as_ref().and_then(|series| series.count);
            let count = u64::try_from(series.or(event.count).unwrap_or(1)).unwrap_or(1);
            *warnings.entry(event.reason.unwrap_or_default()).or_default() += count;
        }
        Ok(warnings)
    }

    /// Deletes the pods, then the namespace, and waits until all are gone.
    pub(super) async fn close(&self) -> Result<(), Error> {
        let pods = self.pods().list(&ListParams::default()).await.map_err(api("list the pods".to_owned()))?;
        let names: Vec<String> = pods.items.iter().map(Pod::name_any).collect();
        try_join_all(names.iter().map(|name| self.end(name))).await?;
        delete(&Api::<Namespace>::all(self.client.clone()), &self.namespace, self.patience).await
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn create<K>(&self, objects: &Api<K>, object: Value) -> Result<(), Error>
    where
        K: Resource + Clone + DeserializeOwned + serde::Serialize + Debug,
    {
        let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let object: K = serde_json::from_value(object)?;
        objects.create(&PostParams::default(), &object).await.map(drop).map_err(api(format!("make {name}")))
    }
}

/// Waits for an object to be so.
pub(super) async fn until<K>(
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
async fn delete<K>(objects: &Api<K>, name: &str, patience: Duration) -> Result<(), Error>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let there = objects.get_opt(name).await.map_err(api(format!("get {name}")))?;
    let Some(uid) = there.and_then(|object| object.meta().uid.clone()) else { return Ok(()) };
    match objects.delete(name, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(()),
        deleted => deleted.map(drop).map_err(api(format!("delete {name}")))?,
    }
    until(objects, name, is_deleted(&uid), &format!("the end of {name}"), patience).await.map(drop)
}

/// An API server's answer with what was tried.
pub(super) fn api(what: String) -> impl FnOnce(kube::Error) -> Error {
    |source| Error::Api { what, source: Box::new(source) }
}

fn is_running(pod: &Pod) -> bool {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().any(|status| status.state.as_ref().is_some_and(|state| state.running.is_some()))
}

fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Failed" | "Succeeded"))
}

/// Of a pod that runs: which containers these are.
fn containers(pod: &Pod) -> Option<Vec<(String, i32)>> {
    let statuses = is_running(pod).then_some(pod.status.as_ref()?.container_statuses.as_ref()?)?;
    Some(statuses.iter().map(|one| (one.container_id.clone().unwrap_or_default(), one.restart_count)).collect())
}
