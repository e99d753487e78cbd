//! The namespace of the symptoms' pods and claims, the node, and what the cluster says of both.
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    time::Duration,
};

use k8s_openapi::api::{
    core::v1::{ConfigMap, Namespace, Pod, ServiceAccount},
    events::v1::Event,
    resource::v1::{Device, ResourceClaim, ResourceSlice},
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{Error, Plan, page, tally::Shown};
use crate::{
    cluster::{api, delete, has_ended, is_running, until},
    node::Node,
};

/// The driver's name, which its slices and Events have.
pub(super) const DRIVER: &str = "gpu.aliquot.dev";
/// What the kubelet says of a claim that can't be prepared.
pub(super) const FAILED: &str = "FailedPrepareDynamicResources";
/// How often something is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// What an Event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct About<'a>(pub(super) &'a str, pub(super) &'a str);

/// The Events that there were, by UID, as they were.
pub(super) struct Since {
    events: BTreeMap<String, String>,
    at: Instant,
}

/// All of it.
pub(super) struct Stage<'a> {
    pub(super) client: Client,
    pub(super) plan: &'a Plan,
    pub(super) node: Node,
    pub(super) shown: std::cell::RefCell<Vec<Shown>>,
}

impl<'a> Stage<'a> {
    /// Makes the namespace.
    pub(super) async fn open(client: Client, plan: &'a Plan, node: Node) -> Result<Self, Error> {
        let stage = Self { client, plan, node, shown: std::cell::RefCell::default() };
        let namespace = json!({"metadata": {"name": plan.namespace}});
        stage.make::<Namespace>(&Api::all(stage.client.clone()), namespace).await?;
        // No pod is taken before.
        let accounts: Api<ServiceAccount> = Api::namespaced(stage.client.clone(), &plan.namespace);
        let there = |account: Option<&ServiceAccount>| account.is_some();
        until(&accounts, "default", there, "the namespace's account", plan.patience).await?;
        Ok(stage)
    }

    /// Takes away what a try has left.
    pub(super) async fn tidy(&self) -> Result<(), Error> {
        let _ = self.node.allow_time_slices();
        self.node.control(&fake_nvml::Control::default())?;
        let pods = self.pods().list(&ListParams::default()).await.map_err(api("list the pods".to_owned()))?;
        for pod in pods.items {
            self.end(&pod.name_any()).await?;
        }
        let claims = self.claims().list(&ListParams::default()).await.map_err(api("list the claims".to_owned()))?;
        for claim in claims.items {
            self.forget(&claim.name_any()).await?;
        }
        Ok(())
    }

    /// Deletes the namespace.
    pub(super) async fn close(&self) -> Result<(), Error> {
        Box::pin(self.tidy()).await?;
        let namespaces = Api::<Namespace>::all(self.client.clone());
        Ok(delete(&namespaces, &self.plan.namespace, &DeleteParams::default(), self.plan.patience).await?)
    }

    pub(super) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.plan.namespace)
    }

    pub(super) fn claims(&self) -> Api<ResourceClaim> {
        Api::namespaced(self.client.clone(), &self.plan.namespace)
    }

    /// Makes an object.
    pub(super) async fn make<K>(&self, objects: &Api<K>, object: Value) -> Result<K, Error>
    where
        K: Resource + Clone + DeserializeOwned + Serialize + Debug,
    {
        let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let object: K = serde_json::from_value(object)?;
        Ok(objects.create(&PostParams::default(), &object).await.map_err(api(format!("make {name}")))?)
    }

    /// Deletes a pod, and waits until it is gone.
    pub(super) async fn end(&self, name: &str) -> Result<(), Error> {
        Ok(delete(&self.pods(), name, &DeleteParams::default().grace_period(1), self.plan.patience).await?)
    }

    /// Deletes a claim, and waits until it is gone.
    pub(super) async fn forget(&self, name: &str) -> Result<(), Error> {
        Ok(delete(&self.claims(), name, &DeleteParams::default(), self.plan.patience).await?)
    }

    /// Waits until a pod runs.
    pub(super) async fn runs(&self, name: &str) -> Result<Pod, Error> {
        let holds = |pod: Option<&Pod>| pod.is_some_and(|pod| is_running(pod) || has_ended(pod));
        let pod = until(&self.pods(), name, holds, &format!("pod {name} to run"), self.plan.patience).await?;
        match pod {
            Some(pod) if is_running(&pod) => Ok(pod),
            _ => Err(Error::Otherwise(format!("pod {name} has ended"))),
        }
    }

    /// Waits until something is so; `what` is what doesn't come to be otherwise.
    pub(super) async fn until(&self, what: &str, holds: impl AsyncFn() -> Result<bool, Error>) -> Result<(), Error> {
        let begun = Instant::now();
        while !holds().await? {
            if begun.elapsed() > self.plan.patience {
                return Err(Error::Otherwise(format!("gave up to wait {what}")));
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// The driver's devices, by their names.
    pub(super) async fn devices(&self) -> Result<BTreeMap<String, Device>, Error> {
        let slices = Api::<ResourceSlice>::all(self.client.clone());
        let ours = ListParams::default().fields(&format!("spec.driver={DRIVER},spec.nodeName={}", self.plan.node_name));
        let listed = slices.list(&ours).await.map_err(api("list the slices".to_owned()))?;
        let devices = listed.items.into_iter().flat_map(|slice| slice.spec.devices.unwrap_or_default());
        Ok(devices.map(|device| (device.name.clone(), device)).collect())
    }

    /// Waits until a device is published, or isn't any more.
    pub(super) async fn published(&self, device: &str, is: bool) -> Result<(), Error> {
        let what = format!("until {device} is{} published", if is { "" } else { " no longer" });
        self.until(&what, async || Ok(self.devices().await?.contains_key(device) == is)).await
    }

    /// Waits until a device is published with a taint, or without any.
    pub(super) async fn tainted(&self, device: &str, is: bool) -> Result<(), Error> {
        let what = format!("until {device} is{} tainted", if is { "" } else { " no longer" });
        let tainted = |device: &Device| device.taints.as_ref().is_some_and(|taints| !taints.is_empty());
        self.until(&what, async || Ok(self.devices().await?.get(device).is_some_and(|device| tainted(device) == is)))
            .await
    }

    /// The Events until now.
    pub(super) async fn now(&self) -> Result<Since, Error> {
        let events = self.events().await?;
        let version = |event: &Event| Some((event.uid()?, event.resource_version()?));
        Ok(Since { events: events.iter().filter_map(version).collect(), at: Instant::now() })
    }

    /// Waits for the Event of a symptom that has a section of its own.
    pub(super) async fn sees(&self, since: &Since, reason: &str, about: About<'_>) -> Result<String, Error> {
        self.sees_text(since, (reason, reason), about, &page::of_event(reason)).await
    }

    /// The same where the section has several texts: this one is meant.
    pub(super) async fn sees_form(
        &self,
        since: &Since,
        (reason, form): (&str, usize),
        about: About<'_>,
    ) -> Result<String, Error> {
        let texts = page::of_event(reason);
        let text = texts.get(form).copied().ok_or_else(|| Error::Otherwise(format!("{reason} has no such text")))?;
        self.sees_text(since, (&format!("{reason}: {text}"), reason), about, &[text]).await
    }

    /// Waits for the kubelet to say of a pod that its claim can't be prepared, as the page has it.
    pub(super) async fn sees_unprepared(&self, since: &Since, text: &str, pod: &str) -> Result<String, Error> {
        let texts: Vec<&str> = page::of_prepare().into_iter().filter(|known| *known == text).collect();
        if texts.is_empty() {
            return Err(Error::Otherwise(format!("the page doesn't have {text:?}")));
        }
        self.sees_text(since, (text, FAILED), About("Pod", pod), &texts).await
    }

    async fn sees_text(
        &self,
        since: &Since,
        (symptom, reason): (&str, &str),
        About(kind, name): About<'_>,
        texts: &[&str],
    ) -> Result<String, Error> {
        let is_new =
            |event: &Event| event.uid().is_some_and(|uid| since.events.get(&uid) != event.resource_version().as_ref());
        let (mut unlike, begun) = (None, Instant::now());
        loop {
            for event in self.events().await?.iter().filter(|event| event.reason.as_deref() == Some(reason)) {
                let Some(regarding) = event.regarding.as_ref().filter(|_| is_new(event)) else { continue };
                let note = event.note.clone().unwrap_or_default();
                if regarding.kind.as_deref() != Some(kind) || regarding.name.as_deref() != Some(name) {
                    continue;
                }
                if texts.iter().any(|text| page::fits(text, &note)) {
                    let on = format!("{kind} {name}");
                    let after = since.at.elapsed();
                    self.shown.borrow_mut().push(Shown { symptom: symptom.to_owned(), on, note: note.clone(), after });
                    return Ok(note);
                }
                unlike = Some(note);
            }
            if begun.elapsed() > self.plan.patience {
                let but = unlike.map_or_else(String::new, |note| format!("; there was {note:?}"));
                return Err(Error::Otherwise(format!("no Event {reason} on {kind} {name} with its text{but}")));
            }
            sleep(LOOK).await;
        }
    }

    /// A symptom that is no Event of its own.
    pub(super) fn shows(&self, since: &Since, symptom: &str, on: &str, note: String) {
        let (symptom, on) = (symptom.to_owned(), on.to_owned());
        self.shown.borrow_mut().push(Shown { symptom, on, note, after: since.at.elapsed() });
    }

    /// That of which Events are told on the node.
    pub(super) fn on_node(&self) -> About<'_> {
        About("Node", &self.plan.node_name)
    }

    /// Gives the driver another policy, and has the kubelet write it at once.
    pub(super) async fn policy(&self, rules: &str) -> Result<(), Error> {
        let policy = format!("apiVersion: {DRIVER}/v1alpha1\nkind: Policy\nrules: {rules}\n");
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), super::install::NAMESPACE);
        let patch = Patch::Merge(json!({"data": {"policy.yaml": policy}}));
        let patched = maps.patch("aliquot-policy", &PatchParams::default(), &patch).await;
        patched.map_err(api("change the policy".to_owned()))?;
        // The kubelet looks at a pod's volumes when the pod changes, and else now and then.
        for pod in self.drivers().await? {
            let annotation = json!({"metadata": {"annotations": {"aliquot.dev/symptoms": rules}}});
            let pods: Api<Pod> = Api::namespaced(self.client.clone(), super::install::NAMESPACE);
            let patched = pods.patch(&pod.name_any(), &PatchParams::default(), &Patch::Merge(annotation)).await;
            patched.map_err(api("annotate the driver's pod".to_owned()))?;
        }
        Ok(())
    }

    /// The driver's pods.
    pub(super) async fn drivers(&self) -> Result<Vec<Pod>, Error> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), super::install::NAMESPACE);
        let of = ListParams::default().labels("app.kubernetes.io/component=driver");
        Ok(pods.list(&of).await.map_err(api("list the driver's pods".to_owned()))?.items)
    }

    /// Ends the driver; another pod takes its place.
    pub(super) async fn restart_driver(&self) -> Result<(), Error> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), super::install::NAMESPACE);
        for pod in self.drivers().await? {
            delete(&pods, &pod.name_any(), &DeleteParams::default(), self.plan.patience).await?;
        }
        Ok(())
    }

    /// Runs a script on the node.
    pub(super) async fn script(&self, script: &str) -> Result<String, Error> {
        Ok(self.plan.on_node.run_script(script, self.plan.patience).await?)
    }

    /// Processes of a pod's containers, as the node numbers them.
    pub(super) async fn processes(&self, pod: &Pod, program: &str) -> Result<Vec<u32>, Error> {
        let uid = pod.uid().unwrap_or_default();
        // By its cgroup: nothing else says whose a process is.
        let script = format!(
            "for p in /proc/[0-9]*; do grep -q {uid} $p/cgroup 2>/dev/null && grep -q {program} $p/cmdline && \
             echo ${{p#/proc/}}; done; true"
        );
        let printed = self.script(&script).await?;
        let found: BTreeSet<u32> = printed.lines().filter_map(|line| line.trim().parse().ok()).collect();
        Ok(found.into_iter().collect())
    }

    async fn events(&self) -> Result<Vec<Event>, Error> {
        let events = Api::<Event>::all(self.client.clone());
        Ok(events.list(&ListParams::default()).await.map_err(api("list the events".to_owned()))?.items)
    }
}
