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
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Act, Kind};
use crate::cluster::{self, api, delete, has_ended, is_running, until};

/// Why it couldn't be found out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cluster.
    #[error(transparent)]
    Cluster(#[from] cluster::Error),
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
pub(crate) struct Stage {
    client: Client,
    namespace: String,
    patience: Duration,
}

impl Stage {
    /// Makes it, with the templates.
    pub(crate) async fn open(client: Client, name: &str, patience: Duration) -> Result<Self, Error> {
        let stage = Self { client, namespace: name.to_owned(), patience };
        let namespace = json!({"metadata": {"name": name}});
        match stage.create::<Namespace>(&Api::all(stage.client.clone()), namespace).await {
            Err(Error::Cluster(cluster::Error::Api { source, .. })) if matches!(&*source, kube::Error::Api(status) if status.is_already_exists()) =>
            {
                return Err(Error::Taken(name.to_owned()));
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
    pub(crate) async fn keep(&self, image: &str) -> Result<Vec<Pod>, Error> {
        try_join_all(Kind::ALL.map(|kind| async move {
            let name = format!("kept-{}", kind.name());
            self.start(&name, kind.pod(&name, image, Act::Stay)).await?;
            Ok(self.pods().get(&name).await.map_err(api(format!("get pod {name}")))?)
        }))
        .await
    }

    /// Which of those are no longer what they were.
    pub(crate) async fn touched(&self, kept: &[Pod]) -> Result<Vec<String>, Error> {
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
    pub(crate) async fn start(&self, name: &str, pod: Value) -> Result<(), Error> {
        self.make(pod).await?;
        self.runs(name).await
    }

    /// Makes a pod.
    pub(crate) async fn make(&self, pod: Value) -> Result<(), Error> {
        self.create(&self.pods(), pod).await
    }

    /// Waits until a pod runs.
    pub(crate) async fn runs(&self, name: &str) -> Result<(), Error> {
        let holds = |pod: Option<&Pod>| pod.is_none_or(|pod| is_running(pod) || has_ended(pod));
        let pod = until(&self.pods(), name, holds, &format!("pod {name} to run"), self.patience).await?;
        if pod.as_ref().is_some_and(is_running) { Ok(()) } else { Err(Error::Ended) }
    }

    /// Deletes a pod and waits until it is gone.
    pub(crate) async fn end(&self, name: &str) -> Result<(), Error> {
        Ok(delete(&self.pods(), name, &DeleteParams::default(), self.patience).await?)
    }

    /// How many warnings of each reason there were of anything here.
    pub(crate) async fn warnings(&self) -> Result<BTreeMap<String, u64>, Error> {
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
    pub(crate) async fn close(&self) -> Result<(), Error> {
        let pods = self.pods().list(&ListParams::default()).await.map_err(api("list the pods".to_owned()))?;
        let names: Vec<String> = pods.items.iter().map(Pod::name_any).collect();
        try_join_all(names.iter().map(|name| self.end(name))).await?;
        let namespaces = Api::<Namespace>::all(self.client.clone());
        Ok(delete(&namespaces, &self.namespace, &DeleteParams::default(), self.patience).await?)
    }

    /// The pods in it.
    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn create<K>(&self, objects: &Api<K>, object: Value) -> Result<(), Error>
    where
        K: Resource + Clone + DeserializeOwned + serde::Serialize + Debug,
    {
        let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let object: K = serde_json::from_value(object)?;
        objects.create(&PostParams::default(), &object).await.map_err(api(format!("make {name}")))?;
        Ok(())
    }
}

/// Of a pod that runs: which containers these are.
fn containers(pod: &Pod) -> Option<Vec<(String, i32)>> {
    let statuses = is_running(pod).then_some(pod.status.as_ref()?.container_statuses.as_ref()?)?;
    Some(statuses.iter().map(|one| (one.container_id.clone().unwrap_or_default(), one.restart_count)).collect())
}
