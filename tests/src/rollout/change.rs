//! Changes of the driver's DaemonSet, each waited for until it is everywhere and nothing of before is left.
use std::{fmt, str::FromStr, time::Duration};

use futures::future::try_join_all;
use k8s_openapi::api::{apps::v1::DaemonSet, core::v1::Pod};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
    runtime::wait::conditions::is_deleted,
};
use serde_json::json;

use crate::{
    cluster::{api, until},
    load::Error,
};

/// The driver's container.
const CONTAINER: &str = "driver";

/// `NAMESPACE/NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonSetName {
    namespace: String,
    name: String,
}

impl FromStr for DaemonSetName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
                Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err("a DaemonSet is named by NAMESPACE/NAME".to_owned()),
        }
    }
}

/// What is done to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing, to compare with.
    None,
    /// As `kubectl rollout restart` does it.
    Restart,
    /// Another image.
    Image(String),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("no change"),
            Self::Restart => f.write_str("restart"),
            Self::Image(image) => write!(f, "image {image}"),
        }
    }
}

/// The DaemonSet, as it was found.
pub(super) struct Rollout {
    sets: Api<DaemonSet>,
    pods: Api<Pod>,
    name: String,
    selector: String,
    image: String,
    patience: Duration,
}

impl Rollout {
    /// Reads it, and waits for whatever change is under way.
    pub(super) async fn of(client: Client, name: &DaemonSetName, patience: Duration) -> Result<Self, Error> {
        let DaemonSetName { namespace, name } = name.clone();
        let sets: Api<DaemonSet> = Api::namespaced(client.clone(), &namespace);
        let set = sets.get(&name).await.map_err(api(format!("get DaemonSet {namespace}/{name}")))?;
        let image = image(&set).ok_or_else(|| Error::NoContainer(name.clone()))?.to_owned();
        let rollout =
            Self { selector: selector(&set), pods: Api::namespaced(client, &namespace), sets, name, image, patience };
        rollout.everywhere(set.metadata.generation).await?;
        Ok(rollout)
    }

    /// The image that it was found with.
    pub(super) fn image(&self) -> &str {
        &self.image
    }

    /// Makes a change, and waits until every node has it and the pods of before are gone.
    pub(super) async fn make(&self, change: &Change) -> Result<(), Error> {
        let what = || format!("change DaemonSet {}: {change}", self.name);
        let listed = self.pods.list(&ListParams::default().labels(&self.selector)).await;
        let before = listed.map_err(api("list the driver's pods".to_owned()))?.items;
        let changed = match change {
            Change::None => return Ok(()),
            Change::Restart => self.sets.restart(&self.name).await,
            Change::Image(image) => {
                let containers = json!([{"name": CONTAINER, "image": image}]);
                let patch = Patch::Strategic(json!({"spec": {"template": {"spec": {"containers": containers}}}}));
                self.sets.patch(&self.name, &PatchParams::default(), &patch).await
            }
        };
        let changed = changed.map_err(api(what()))?;
        self.everywhere(changed.metadata.generation).await?;
        let gone = before.iter().map(|pod| async {
            let (name, uid) = (pod.name_any(), pod.uid().unwrap_or_default());
            until(&self.pods, &name, is_deleted(&uid), &format!("the end of {name}"), self.patience).await
        });
        try_join_all(gone).await?;
        Ok(())
    }

    /// Gives it back its image, where it has another.
    pub(super) async fn restore(&self) -> Result<(), Error> {
        let set = self.sets.get(&self.name).await.map_err(api(format!("get DaemonSet {}", self.name)))?;
        if image(&set) == Some(&self.image) { Ok(()) } else { self.make(&Change::Image(self.image.clone())).await }
    }

    async fn everywhere(&self, generation: Option<i64>) -> Result<(), Error> {
        let what = format!("DaemonSet {} to be everywhere", self.name);
        let holds = |set: Option<&DaemonSet>| set.is_some_and(|set| is_everywhere(set, generation.unwrap_or_default()));
        until(&self.sets, &self.name, holds, &what, self.patience).await?;
        Ok(())
    }
}

fn image(set: &DaemonSet) -> Option<&str> {
    let containers = &set.spec.template.spec.as_ref()?.containers;
    containers.iter().find(|container| container.name == CONTAINER)?.image.as_deref()
}

/// The labels of its pods, as a selector.
fn selector(set: &DaemonSet) -> String {
    let labels = set.spec.selector.match_labels.clone().unwrap_or_default();
    labels.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
}

/// Whether all nodes run this generation of it, and there is a node.
fn is_everywhere(set: &DaemonSet, generation: i64) -> bool {
    set.status.as_ref().is_some_and(|status| {
        let desired = status.desired_number_scheduled;
        status.observed_generation.unwrap_or_default() >= generation
            && desired > 0
            && status.updated_number_scheduled == Some(desired)
            && status.number_available == Some(desired)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value};

    use super::*;

    fn set(status: &Value) -> DaemonSet {
        from_value(json!({"spec": {"selector": {"matchLabels": {"a": "1", "b": "2"}}, "template": {"spec":
            {"containers": [{"name": "driver", "image": "one:1"}]}}}, "status": status}))
        .unwrap()
    }

    fn status(observed: i64, desired: i32, updated: i32, available: i32) -> Value {
        json!({"currentNumberScheduled": desired, "desiredNumberScheduled": desired, "numberMisscheduled": 0,
            "numberReady": available, "numberAvailable": available, "updatedNumberScheduled": updated,
            "observedGeneration": observed})
    }

    #[test]
    fn a_change_is_everywhere_when_each_node_serves_this_generation() {
        for (observed, desired, updated, available, is) in
            [(2, 3, 3, 3, true), (1, 3, 3, 3, false), (2, 3, 2, 3, false), (2, 3, 3, 2, false), (2, 0, 0, 0, false)]
        {
            assert_eq!(is_everywhere(&set(&status(observed, desired, updated, available)), 2), is);
        }
    }

    #[test]
    fn its_image_and_its_pods_are_known_by_its_template_and_labels() {
        let set = set(&status(1, 1, 1, 1));
        assert_eq!(image(&set), Some("one:1"));
        assert_eq!(selector(&set), "a=1,b=2");
        assert!("aliquot/aliquot-driver".parse::<DaemonSetName>().is_ok() && "x".parse::<DaemonSetName>().is_err());
    }
}
