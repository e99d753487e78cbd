//! The driver on the cluster: installed by one command on simulated GPUs, changed, and taken away again.
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use kube::{Api, Client, Resource, runtime::wait::Condition};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Error, Plan};
use crate::{cluster::until, node::Node, shell::Shell};

/// Where the manifests put everything.
pub(super) const NAMESPACE: &str = "aliquot";
/// The same for what clears the node, which has this name too.
const UNINSTALL: &str = "aliquot-uninstall";
/// What they are.
const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy");
/// The components that symptoms need, and what else they are shown with.
const COMPONENTS: [&str; 2] = ["guard", "policy"];
/// What takes minutes in earnest.
const DRIVER: [(&str, &str); 7] = [
    ("ALIQUOT_PREPARE_BUDGET", "4s"),
    ("ALIQUOT_RESCAN_INTERVAL", "1s"),
    ("ALIQUOT_NVML_DEADLINE", "5s"),
    ("ALIQUOT_ILLNESS_SETTLES", "2s"),
    ("ALIQUOT_GUARD_INTERVAL", "1s"),
    ("ALIQUOT_SWEEP_INTERVAL", "1s"),
    ("ALIQUOT_SWEEP_GRACE", "3s"),
];
const CONTROLLER: [(&str, &str); 3] =
    [("ALIQUOT_SLICE_GRACE", "3s"), ("ALIQUOT_STUCK_AFTER", "3s"), ("ALIQUOT_LEASE_DURATION", "6s")];

/// What is different from one kustomization to the next.
#[derive(Debug, Clone, Default)]
pub(super) struct Variant<'a> {
    /// More components.
    pub(super) components: &'a [&'a str],
    /// More of the driver's environment.
    pub(super) driver: &'a [(&'a str, &'a str)],
    /// Nodes that the driver runs on, by a label that they have; all without.
    pub(super) only_on: Option<&'a str>,
}

/// A kustomization over the simulated node.
pub(super) struct Installation<'a> {
    plan: &'a Plan,
    client: Client,
    dir: PathBuf,
    node: Vec<(String, String)>,
    root: PathBuf,
}

impl<'a> Installation<'a> {
    /// On this node, which is laid out below `root`.
    pub(super) fn new(client: Client, plan: &'a Plan, node: &Node, root: &Path) -> Result<Self, Error> {
        let command = node.driver("run");
        let text = |value: &std::ffi::OsStr| value.to_string_lossy().into_owned();
        // Of the real node's own the kubelet's and the runtime's places, and where records and metrics are.
        let is_real = |name: &str| {
            ["NODE_NAME", "ALIQUOT_METRICS_ADDRESS", "ALIQUOT_KUBELET_ROOT", "ALIQUOT_CDI_ROOT", "ALIQUOT_RUN_ROOT"]
                .contains(&name)
                || name == "ALIQUOT_HOOK_ROOT"
        };
        let all = command.get_envs().filter_map(|(name, value)| Some((text(name), text(value?))));
        let mut node: Vec<_> = all.filter(|(name, _)| !is_real(name)).collect();
        node.push(("ALIQUOT_DRIVER_ROOT_ON_HOST".to_owned(), root.join("driver").to_string_lossy().into_owned()));
        let dir = root.join("deploy");
        fs::create_dir_all(&dir)?;
        Ok(Self { plan, client, dir, node, root: root.to_owned() })
    }

    /// Applies it, and waits until it serves.
    pub(super) async fn apply(&self, variant: &Variant<'_>) -> Result<(), Error> {
        self.write(variant)?;
        self.kubectl("apply").await?;
        let (sets, deployments): (Api<DaemonSet>, Api<Deployment>) = (self.all(), self.all());
        if variant.only_on.is_none() {
            self.served(&sets, "aliquot-driver", |set: Option<&DaemonSet>| {
                set.is_some_and(|set| is_everywhere(set.metadata.generation, set.status.as_ref().map(serve_of)))
            })
            .await?;
        }
        self.served(&deployments, "aliquot-controller", |deployment: Option<&Deployment>| {
            deployment.is_some_and(|one| {
                let status = one.status.as_ref();
                let wanted = one.spec.replicas;
                status.is_some_and(|status| {
                    status.observed_generation >= one.metadata.generation
                        && status.available_replicas == wanted
                        && status.updated_replicas == wanted
                        && status.replicas == wanted
                })
            })
        })
        .await
    }

    /// Deletes all of it, and waits until it is gone.
    pub(super) async fn delete(&self) -> Result<Duration, Error> {
        let begun = Instant::now();
        // With all that was ever applied: what isn't there any more is no matter.
        self.write(&Variant { components: &["release-stuck-claims", "vfio-alias"], ..Variant::default() })?;
        self.kubectl("delete --ignore-not-found").await?;
        Ok(begun.elapsed())
    }

    /// Takes what is left away from the node, and itself again.
    pub(super) async fn clear(&self) -> Result<Duration, Error> {
        let begun = Instant::now();
        let dir = self.root.join("uninstall");
        fs::create_dir_all(&dir)?;
        let kustomization = json!({"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
            "resources": [self.relative("uninstall/base")?], "images": [self.image()]});
        fs::write(dir.join("kustomization.yaml"), kustomization.to_string())?;
        self.kubectl_at("apply", &dir).await?;
        let sets: Api<DaemonSet> = Api::namespaced(self.client.clone(), UNINSTALL);
        self.served(&sets, UNINSTALL, |set: Option<&DaemonSet>| {
            set.is_some_and(|set| is_everywhere(set.metadata.generation, set.status.as_ref().map(serve_of)))
        })
        .await?;
        self.kubectl_at("delete", &dir).await?;
        Ok(begun.elapsed())
    }

    fn all<K>(&self) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    async fn served<K>(&self, objects: &Api<K>, name: &str, condition: impl Condition<K>) -> Result<(), Error>
    where
        K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
    {
        until(objects, name, condition, &format!("{name} to serve"), self.plan.patience).await?;
        Ok(())
    }

    async fn kubectl(&self, verb: &str) -> Result<(), Error> {
        self.kubectl_at(verb, &self.dir).await
    }

    async fn kubectl_at(&self, verb: &str, dir: &Path) -> Result<(), Error> {
        let line = format!("kubectl {verb} -k '{}'", dir.display());
        let shell: Shell = line.parse().map_err(Error::Otherwise)?;
        shell.run(self.plan.patience).await?;
        Ok(())
    }

    /// A directory of the manifests, from one below the simulated node's: kustomize takes no absolute paths.
    fn relative(&self, below: &str) -> Result<PathBuf, Error> {
        let (deploy, from) = (fs::canonicalize(DEPLOY)?, fs::canonicalize(&self.dir)?);
        let up: PathBuf = from.components().skip(1).map(|_| "..").collect();
        Ok(up.join(deploy.strip_prefix("/").unwrap_or(&deploy)).join(below))
    }

    fn image(&self) -> Value {
        let (image, tag) = self.plan.image.rsplit_once(':').unwrap_or((&self.plan.image, "latest"));
        json!({"name": "localhost/aliquot", "newName": image, "newTag": tag})
    }

    fn write(&self, variant: &Variant<'_>) -> Result<(), Error> {
        let components = COMPONENTS.iter().chain(variant.components);
        let components: Result<Vec<_>, _> =
            components.map(|name| self.relative(&format!("components/{name}"))).collect();
        let kustomization = json!({
            "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
            "resources": [self.relative("base")?, "policy.yaml"], "components": components?, "images": [self.image()],
            "patches": [patch("DaemonSet", "aliquot-driver", &self.driver(variant)),
                patch("Deployment", "aliquot-controller", &controller())]});
        fs::write(self.dir.join("kustomization.yaml"), kustomization.to_string())?;
        let policy = format!("apiVersion: {}/v1alpha1\nkind: Policy\nrules: []\n", super::stage::DRIVER);
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "aliquot-policy",
            "namespace": NAMESPACE}, "data": {"policy.yaml": policy}});
        Ok(fs::write(self.dir.join("policy.yaml"), map.to_string())?)
    }

    /// The pod's template, with the simulated node's directories in place of the host's.
    fn driver(&self, variant: &Variant<'_>) -> Value {
        let own = self.node.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let all = own.chain(DRIVER).chain(variant.driver.iter().copied());
        let volume = json!({"name": "simulated", "hostPath": {"path": self.root, "type": "Directory"}});
        let mount = json!({"name": "simulated", "mountPath": self.root});
        let container = json!({"name": "driver", "env": environment(all), "volumeMounts": [mount]});
        let only: Value = variant.only_on.map_or(Value::Null, |label| json!({label: "true"}));
        json!({"volumes": [volume], "containers": [container], "nodeSelector": only})
    }
}

fn controller() -> Value {
    json!({"containers": [{"name": "controller", "env": environment(CONTROLLER)}]})
}

fn environment<'a>(all: impl IntoIterator<Item = (&'a str, &'a str)>) -> Value {
    // A later one takes the place of an earlier one.
    let all: std::collections::BTreeMap<&str, &str> = all.into_iter().collect();
    all.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect()
}

fn patch(kind: &str, name: &str, pod: &Value) -> Value {
    let mut pod = pod.clone();
    if pod["nodeSelector"].is_null()
        && let Some(pod) = pod.as_object_mut()
    {
        pod.remove("nodeSelector");
    }
    let patch = json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name},
        "spec": {"template": {"spec": pod}}});
    json!({"target": {"kind": kind, "name": name}, "patch": patch.to_string()})
}

/// The generation that was seen, and how many nodes want, have and have the new one.
type Serve = (Option<i64>, i32, Option<i32>, Option<i32>, i32);

fn serve_of(status: &k8s_openapi::api::apps::v1::DaemonSetStatus) -> Serve {
    let (available, updated) = (status.number_available, status.updated_number_scheduled);
    (status.observed_generation, status.desired_number_scheduled, available, updated, status.current_number_scheduled)
}

fn is_everywhere(generation: Option<i64>, status: Option<Serve>) -> bool {
    status.is_some_and(|(observed, desired, available, updated, current)| {
        observed >= generation
            && desired > 0
            && available == Some(desired)
            && updated == Some(desired)
            && current == desired
    })
}
