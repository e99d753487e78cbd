//! A whole node on one machine: the API stand-in, the kubelet stand-in, simulated GPUs, and the real driver binary.
use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use fake_apiserver::{Builder, Rule, Server};
use fake_kubelet::{Kubelet, RunningPod, allocator::Scheduler};
use fake_nvml::Profile;
use k8s_openapi::api::{
    core::v1::Pod,
    resource::v1::{Device, ResourceSlice},
};
use kube::{
    Api, Client, Config,
    api::{ApiResource, DynamicObject, GroupVersionKind, PostParams},
};
use kubelet_api::dra::v1::Claim;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::node::{Artifacts, Node};

/// The driver's default name.
pub const DRIVER: &str = "gpu.aliquot.dev";
/// The CDI device with what every container needs that uses a GPU.
pub const NODE_DEVICE: &str = "gpu.aliquot.dev/driver=node";
/// The node's name.
pub const NODE: &str = "node1";
/// The token of the driver's account, which may do what `deploy/base/rbac.yaml` says.
pub const ACCOUNT: &str = "aliquot-driver";
/// What that account is granted.
const BASE: &str = include_str!("../../deploy/base/rbac.yaml");
/// What component `guard` adds to it.
const GUARD: &str = include_str!("../../deploy/components/guard/rbac.yaml");
/// How long something may take before a suite gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What can go wrong around a suite.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// All of it. Dropping it ends and removes everything.
pub struct Testbed {
    driver: Option<Child>,
    /// The kubelet's side.
    pub kubelet: Kubelet,
    /// The scheduler's side.
    pub scheduler: Scheduler,
    /// The API server.
    pub api: Server,
    /// Its client.
    pub client: Client,
    /// The node's files.
    pub node: Node,
    dir: tempfile::TempDir,
}

impl Testbed {
    /// A node with the GPUs of a named profile, and the driver running on it.
    pub async fn start(profile: &str) -> Result<Self> {
        let mut testbed = Self::without_driver(profile, Server::builder()).await?;
        testbed.start_driver(&[])?;
        testbed.ready().await?;
        Ok(testbed)
    }

    /// The same before the driver is started.
    pub async fn without_driver(profile: &str, api: Builder) -> Result<Self> {
        let profile = Profile::named(profile).ok_or("no such profile")?;
        Self::made_from(&Artifacts::find()?, profile, api).await
    }

    /// The same with any GPUs and programs.
    pub(crate) async fn made_from(artifacts: &Artifacts, profile: Profile, api: Builder) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("aliquot").tempdir()?;
        let node = Node::lay_out(&dir.path().join("n"), profile, artifacts)?;
        let api = api.start().await?;
        std::fs::write(dir.path().join("kubeconfig"), api.kubeconfig())?;
        std::fs::write(dir.path().join("account"), api.kubeconfig_with(ACCOUNT))?;
        api.permit(ACCOUNT, rules(BASE, "aliquot-driver")?);
        let mut config = Config::new(api.url().parse()?);
        config.default_retry = false;
        let client = Client::try_from(config)?;
        let object = json!({"metadata": {"name": NODE}, "apiVersion": "v1", "kind": "Node"});
        apply(&client, &[object]).await?;
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}],
            "nodeInfo": {"kubeletVersion": "v1.36.2", "containerRuntimeVersion": "containerd://2.1.9"}}});
        let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(client.clone());
        nodes.patch_status(NODE, &kube::api::PatchParams::default(), &kube::api::Patch::Merge(&ready)).await?;
        apply(&client, &documents(include_str!("../../deploy/base/deviceclasses.yaml"))?).await?;
        let kubelet = Kubelet::builder(node.path("kubelet"), NODE, client.clone()).start()?;
        let scheduler = Scheduler::new(client.clone(), NODE);
        Ok(Self { driver: None, kubelet, scheduler, api, client, node, dir })
    }

    /// Gives the driver's account what component `guard` adds.
    pub fn permit_guard(&self) -> Result<()> {
        let added = rules(GUARD, "aliquot-driver-guard")?;
        self.api.permit(ACCOUNT, [rules(BASE, "aliquot-driver")?, added].concat());
        Ok(())
    }

    /// Starts the driver, with more environment.
    pub fn start_driver(&mut self, environment: &[(&str, &str)]) -> Result<()> {
        self.driver = Some(self.another_driver(environment)?);
        Ok(())
    }

    /// Starts the driver by a program that takes it and its arguments as its own last ones, and becomes it.
    pub fn start_driver_by(&mut self, launcher: &[&str]) -> Result<u32> {
        let driver = self.driver_command("run");
        let (program, arguments) = launcher.split_first().ok_or("no launcher")?;
        let mut command = Command::new(program);
        command.args(arguments).arg(driver.get_program()).args(driver.get_args());
        command.envs(driver.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let child = self.logged(command)?;
        let pid = self.driver.insert(child).id();
        self.node.show_self(pid)?;
        Ok(pid)
    }

    /// Starts a driver that the caller ends.
    pub fn another_driver(&self, environment: &[(&str, &str)]) -> Result<Child> {
        let mut command = self.driver_command("run");
        command.envs(environment.iter().copied());
        self.logged(command)
    }

    fn logged(&self, mut command: Command) -> Result<Child> {
        let log = File::options().create(true).append(true).open(self.log_path())?;
        Ok(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?)
    }

    /// The driver's command line on this node, with its API server: as its own account where it serves, else as anybody.
    pub fn driver_command(&self, subcommand: &str) -> Command {
        let mut command = self.node.driver(subcommand);
        let account = if subcommand == "run" { self.dir.path().join("account") } else { self.kubeconfig() };
        command.env("KUBECONFIG", account);
        command
    }

    /// A kubeconfig for the API server.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    /// Waits until the driver is registered and has published.
    pub async fn ready(&self) -> Result<()> {
        self.kubelet.wait_registered(DRIVER).await.map_err(|error| format!("{error}\n{}", self.log()))?;
        let is_whole = || {
            let slices: Vec<ResourceSlice> = serde_json::from_value(json!(self.api.peek_all("resourceslices")))?;
            let ours = slices.iter().filter(|slice| slice.spec.driver == DRIVER);
            Ok::<_, serde_json::Error>(whole_pool(ours).is_some_and(|whole| !whole.is_empty()))
        };
        self.until("slices are published", || is_whole().unwrap_or_default()).await
    }

    /// Ends the driver as SIGTERM does.
    pub fn stop_driver(&mut self) -> Result<ExitStatus> {
        let mut child = self.driver.take().ok_or("no driver runs")?;
        end(&child)?;
        Ok(child.wait()?)
    }

    /// Ends the driver as nothing but SIGKILL does.
    pub fn kill_driver(&mut self) -> Result<()> {
        let mut child = self.driver.take().ok_or("no driver runs")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Waits for the driver to end by itself.
    pub async fn driver_ended(&mut self) -> Result<ExitStatus> {
        let mut child = self.driver.take().ok_or("no driver runs")?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                child.kill()?;
                return Err(format!("the driver still runs\n{}", self.log()).into());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What the driver has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        self.dir.path().join("driver.log")
    }

    /// Ends the driver, if it still runs, as SIGKILL does, starts it with more environment, and waits until it serves.
    pub async fn restart_driver(&mut self, environment: &[(&str, &str)]) -> Result<()> {
        if self.driver.is_some() {
            self.kill_driver()?;
        }
        let registered = |testbed: &Self| testbed.log().matches("registered with the kubelet").count();
        let times = registered(self);
        self.start_driver(environment)?;
        self.until("the driver is registered", || registered(self) > times).await
    }

    /// Waits until something holds.
    pub async fn until(&self, what: &str, holds: impl Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            if Instant::now() > deadline {
                return Err(format!("it did not come to be that {what}; the driver's log:\n{}", self.log()).into());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Names of the devices that are published, in order.
    pub fn published(&self) -> Vec<String> {
        self.devices().into_iter().map(|device| device.name).collect()
    }

    /// Names of the whole GPUs that are published, by place.
    pub fn whole(&self) -> Vec<String> {
        let mut names = self.published();
        names.retain(|name| !name.contains("-share") && !name.ends_with("-admin"));
        names.sort();
        names
    }

    /// The devices that are published, in order.
    pub fn devices(&self) -> Vec<Device> {
        let slices = self.api.peek_all("resourceslices");
        let devices = slices.iter().filter_map(|slice| slice.pointer("/spec/devices"));
        devices.filter_map(|devices| serde_json::from_value::<Vec<Device>>(devices.clone()).ok()).flatten().collect()
    }

    /// Runs a pod as the scheduler and the kubelet do: claims made and allocated, then prepared.
    pub async fn run_pod(&self, pod: Value) -> Result<(Pod, RunningPod)> {
        let pod = self.create_pod(pod).await?;
        let spec = self.scheduler.schedule(&pod).await?;
        Ok((pod, self.kubelet.run_pod(spec).await?))
    }

    /// Makes a pod that nobody has scheduled.
    pub async fn create_pod(&self, pod: Value) -> Result<Pod> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), "default");
        Ok(api.create(&PostParams::default(), &serde_json::from_value(pod)?).await?)
    }

    /// Writes into a pod's status that all of it runs, as the kubelet would.
    pub async fn set_running(&self, pod: &Pod) -> Result<()> {
        let names = pod.spec.iter().flat_map(|spec| &spec.containers).map(|container| &container.name);
        let ready: Vec<Value> = names.map(|name| json!({"name": name, "ready": true})).collect();
        let status = json!({"status": {"phase": "Running", "containerStatuses": ready}});
        let api: Api<Pod> = Api::namespaced(self.client.clone(), "default");
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        api.patch_status(name, &kube::api::PatchParams::default(), &kube::api::Patch::Merge(&status)).await?;
        Ok(())
    }

    /// Stops a pod and releases its claims.
    pub async fn stop_pod(&self, pod: &Pod) -> Result<()> {
        self.kubelet.stop_pod(pod.metadata.uid.as_deref().unwrap_or_default()).await?;
        self.scheduler.release(pod).await?;
        let api: Api<Pod> = Api::namespaced(self.client.clone(), "default");
        api.delete(pod.metadata.name.as_deref().unwrap_or_default(), &kube::api::DeleteParams::default()).await?;
        Ok(())
    }

    /// A claim that is allocated to `devices` whatever else holds them, as `(request, device)`.
    pub async fn allocated(&self, name: &str, devices: &[(&str, &str)]) -> Result<Claim> {
        let results: Vec<Value> = devices
            .iter()
            .map(|(request, device)| {
                json!({"driver": DRIVER, "pool": format!("{DRIVER}/{NODE}"), "device": device, "request": request})
            })
            .collect();
        self.allocated_as(name, json!({"devices": {"results": results}})).await
    }

    /// A claim with a whole allocation.
    pub async fn allocated_as(&self, name: &str, allocation: Value) -> Result<Claim> {
        self.allocated_in("default", name, allocation).await
    }

    /// The same in any namespace.
    pub async fn allocated_in(&self, namespace: &str, name: &str, allocation: Value) -> Result<Claim> {
        let claim = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
            "metadata": {"name": name, "namespace": namespace}, "spec": {}});
        let made = apply(&self.client, &[claim]).await?;
        let api: Api<k8s_openapi::api::resource::v1::ResourceClaim> = Api::namespaced(self.client.clone(), namespace);
        let status = kube::api::Patch::Merge(json!({"status": {"allocation": allocation}}));
        api.patch_status(name, &kube::api::PatchParams::default(), &status).await?;
        let uid = made.first().and_then(|made| made.metadata.uid.clone()).unwrap_or_default();
        Ok(Claim { namespace: namespace.to_owned(), name: name.to_owned(), uid })
    }

    /// Prepares one claim over the kubelet's connection: the CDI ids of its own devices, or the driver's error.
    pub async fn prepare(&self, claim: &Claim) -> Result<std::result::Result<Vec<String>, String>> {
        let answer = self.kubelet.client(DRIVER)?.prepare(vec![claim.clone()]).await?;
        let answer = answer.claims.get(&claim.uid).ok_or("the driver gave no answer for the claim")?;
        if !answer.error.is_empty() {
            return Ok(Err(answer.error.clone()));
        }
        let mut own = Vec::with_capacity(answer.devices.len());
        for device in &answer.devices {
            let [node, id] = device.cdi_device_ids.as_slice() else {
                return Err("not two CDI ids for a device".into());
            };
            if node != NODE_DEVICE {
                return Err(format!("{node} is not the node's device").into());
            }
            own.push(id.clone());
        }
        Ok(Ok(own))
    }

    /// Unprepares one claim over the kubelet's connection.
    pub async fn unprepare(&self, claim: &Claim) -> Result<std::result::Result<(), String>> {
        let answer = self.kubelet.client(DRIVER)?.unprepare(vec![claim.clone()]).await?;
        let answer = answer.claims.get(&claim.uid).ok_or("the driver gave no answer for the claim")?;
        Ok(if answer.error.is_empty() { Ok(()) } else { Err(answer.error.clone()) })
    }

    /// The paths, in containers, of the device nodes that CDI ids stand for, in order.
    pub fn nodes_of(&self, ids: &[String]) -> Result<Vec<String>> {
        let mut nodes = Vec::new();
        let is_finished = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "json");
        for path in self.specs()?.into_iter().filter(is_finished) {
            let spec: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
            let kind = spec["kind"].as_str().unwrap_or_default();
            for device in spec["devices"].as_array().into_iter().flatten() {
                if ids.contains(&format!("{kind}={}", device["name"].as_str().unwrap_or_default())) {
                    let edits = device.pointer("/containerEdits/deviceNodes").and_then(Value::as_array);
                    nodes.extend(
                        edits.into_iter().flatten().filter_map(|node| node["path"].as_str().map(ToOwned::to_owned)),
                    );
                }
            }
        }
        nodes.sort();
        Ok(nodes)
    }

    /// The CDI spec files of claims on the node, without the node's own.
    pub fn specs(&self) -> Result<Vec<PathBuf>> {
        let mut specs = files(&self.node.path("cdi"))?;
        specs.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains("-claim_")));
        Ok(specs)
    }

    /// The record files on the node, without the lock.
    pub fn records(&self) -> Result<Vec<PathBuf>> {
        let mut records = files(&self.node.path("run").join(DRIVER).join("claims"))?;
        records.retain(|path| path.file_name().is_some_and(|name| name != "lock"));
        Ok(records)
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        if let Some(mut child) = self.driver.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Sends SIGTERM.
pub fn end(child: &Child) -> io::Result<()> {
    let pid = rustix::process::Pid::from_child(child);
    Ok(rustix::process::kill_process(pid, rustix::process::Signal::TERM)?)
}

pub(crate) fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let mut files = std::fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

/// The documents of a YAML file.
pub fn documents<T: DeserializeOwned>(text: &str) -> Result<Vec<T>> {
    let parts = text.split("\n---\n").filter(|part| !part.trim().is_empty());
    parts.map(|part| serde_saphyr::from_str(part).map_err(Into::into)).collect()
}

/// The rules of the `Role`s and `ClusterRole`s of this name in a YAML file.
pub fn rules(text: &str, role: &str) -> Result<Vec<Rule>> {
    let mut rules = Vec::new();
    for object in documents::<Value>(text)? {
        let is_role = object["kind"].as_str().is_some_and(|kind| kind.ends_with("Role"));
        if is_role && object["metadata"]["name"] == role {
            rules.extend(serde_json::from_value::<Vec<Rule>>(object["rules"].clone())?);
        }
    }
    if rules.is_empty() { Err(format!("there is no role {role}").into()) } else { Ok(rules) }
}

/// The pods that objects stand for, and the other objects: a Deployment's are made as its controllers make them.
pub fn pods_and_others(objects: Vec<Value>) -> (Vec<Value>, Vec<Value>) {
    let (mut pods, mut others) = (Vec::new(), Vec::new());
    for object in objects {
        match object["kind"].as_str() {
            Some("Pod") => pods.push(object),
            Some("Deployment") => {
                for number in 0..object["spec"]["replicas"].as_u64().unwrap_or(1) {
                    let mut pod = object["spec"]["template"].clone();
                    let name = format!("{}-{number}", object["metadata"]["name"].as_str().unwrap_or_default());
                    pod["metadata"]["name"] = json!(name);
                    pod["apiVersion"] = json!("v1");
                    pod["kind"] = json!("Pod");
                    pods.push(pod);
                }
            }
            _ => others.push(object),
        }
    }
    (pods, others)
}

/// Creates objects of any kind; those without a namespace go where their kind does.
pub async fn apply(client: &Client, objects: &[Value]) -> Result<Vec<DynamicObject>> {
    let mut made = Vec::new();
    for object in objects {
        let object: DynamicObject = serde_json::from_value(object.clone())?;
        let types = object.types.clone().ok_or("an object without apiVersion and kind")?;
        let kind = ApiResource::from_gvk(&GroupVersionKind::try_from(&types)?);
        let is_global =
            ["Node", "Namespace", "DeviceClass", "ResourceSlice", "RuntimeClass"].contains(&types.kind.as_str());
        let api: Api<DynamicObject> = if is_global {
            Api::all_with(client.clone(), &kind)
        } else {
            Api::namespaced_with(client.clone(), object.metadata.namespace.as_deref().unwrap_or("default"), &kind)
        };
        made.push(api.create(&PostParams::default(), &object).await?);
    }
    Ok(made)
}

/// The slices of the newest generation, if all of them are there.
pub(crate) fn whole_pool<'a>(slices: impl IntoIterator<Item = &'a ResourceSlice>) -> Option<Vec<&'a ResourceSlice>> {
    let mut slices: Vec<&ResourceSlice> = slices.into_iter().collect();
    let newest = slices.iter().map(|slice| slice.spec.pool.generation).max();
    slices.retain(|slice| Some(slice.spec.pool.generation) == newest);
    let is_whole = |slice: &&ResourceSlice| i64::try_from(slices.len()) == Ok(slice.spec.pool.resource_slice_count);
    slices.iter().all(is_whole).then_some(slices)
}
