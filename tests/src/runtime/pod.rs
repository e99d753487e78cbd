//! Pods: a sandbox and its containers, all of the one image.
use std::collections::BTreeMap;

use super::{
    Error, Runtime,
    cri::{
        Client, answer,
        proto::{
            CdiDevice, ContainerConfig, ContainerMetadata, ContainerState, ContainerStatusRequest,
            CreateContainerRequest, ExecSyncRequest, IdMapping, ImageSpec, KeyValue, LinuxContainerConfig,
            LinuxContainerSecurityContext, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode,
            NamespaceOption, PodSandboxConfig, PodSandboxMetadata, RemovePodSandboxRequest, RunPodSandboxRequest,
            StartContainerRequest, StopContainerRequest, StopPodSandboxRequest, UserNamespace,
        },
    },
};
use crate::image::REFERENCE;

/// Of a pod with a user namespace, on the host: as the kubelet gives the first of them, a pod each.
const FIRST_USER: u32 = 65_536;
const USERS: u32 = 65_536;

/// Seconds until a command in a container is given up.
const EXEC: i64 = 60;

/// What a container gets.
#[derive(Debug, Clone, Default)]
pub struct ContainerSpec {
    /// Its name in the pod.
    pub name: String,
    /// Qualified CDI names (`vendor/class=device`), as the kubelet passes them on.
    pub cdi_devices: Vec<String>,
    /// Whether it gets every device and capability that there is.
    pub privileged: bool,
    /// Its environment, as a pod's author writes it.
    pub env: Vec<(String, String)>,
    /// What the kubelet itself tells the runtime of the container; nothing of it comes from a pod's author.
    pub annotations: BTreeMap<String, String>,
    /// An image that was imported; [the usual one](REFERENCE) if there is none.
    pub image: Option<String>,
    /// A container of the pod that was started before, whose processes this one sees, as ephemeral containers do.
    pub target: Option<String>,
}

/// A pod.
#[derive(Debug, Clone, Default)]
pub struct PodSpec {
    /// Its name.
    pub name: String,
    /// A pod's annotations, as its author writes them.
    pub annotations: BTreeMap<String, String>,
    /// What makes its containers.
    pub runtime: Runtime,
    /// Whether its users are others on the host (`hostUsers: false`).
    pub user_namespace: bool,
    /// In the order in which they start.
    pub containers: Vec<ContainerSpec>,
}

/// What a command in a container did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its exit status.
    pub status: i32,
    /// Its standard output; what was no UTF-8 is replaced.
    pub stdout: String,
    /// Its standard error, likewise.
    pub stderr: String,
}

/// A pod whose containers were started.
#[derive(Debug)]
pub struct Pod {
    client: Client,
    sandbox: String,
    config: PodSandboxConfig,
    user_namespace: bool,
    /// The newest of each name.
    containers: BTreeMap<String, Started>,
}

#[derive(Debug)]
struct Started {
    id: String,
    attempt: u32,
}

impl Pod {
    pub(super) async fn run(client: Client, group: &str, spec: &PodSpec) -> Result<Self, Error> {
        let config = sandbox_config(group, spec);
        let runtime_handler = spec.runtime.name().to_owned();
        let request = RunPodSandboxRequest { config: Some(config.clone()), runtime_handler };
        let response = answer("RunPodSandbox", client.runtime().run_pod_sandbox(request).await)?;
        let (sandbox, user_namespace) = (response.pod_sandbox_id, spec.user_namespace);
        let mut pod = Self { client, sandbox, config, user_namespace, containers: BTreeMap::new() };
        for container in &spec.containers {
            if let Err(error) = pod.start(container).await {
                // The first error is the one that tells; containerd's end removes what is left.
                let _ = pod.remove().await;
                return Err(error);
            }
        }
        Ok(pod)
    }

    /// Runs a command in a container and waits for its end, for a minute.
    pub async fn exec(&self, container: &str, command: &[&str]) -> Result<Output, Error> {
        let request = ExecSyncRequest {
            container_id: self.id(container)?.to_owned(),
            cmd: command.iter().map(|&word| word.to_owned()).collect(),
            timeout: EXEC,
        };
        let response = answer("ExecSync", self.client.runtime().exec_sync(request).await)?;
        Ok(Output {
            status: response.exit_code,
            stdout: String::from_utf8_lossy(&response.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&response.stderr).into_owned(),
        })
    }

    /// Whether a container runs, and has not ended.
    pub async fn is_running(&self, container: &str) -> Result<bool, Error> {
        let container_id = self.id(container)?.to_owned();
        let request = ContainerStatusRequest { container_id };
        let response = answer("ContainerStatus", self.client.runtime().container_status(request).await)?;
        Ok(response.status.is_some_and(|status| status.state() == ContainerState::ContainerRunning))
    }

    /// Ends a container, as SIGKILL does.
    pub async fn end(&self, container: &str) -> Result<(), Error> {
        let request = StopContainerRequest { container_id: self.id(container)?.to_owned(), timeout: 0 };
        answer("StopContainer", self.client.runtime().stop_container(request).await).map(drop)
    }

    /// Ends the pod's containers and removes it.
    pub async fn remove(self) -> Result<(), Error> {
        let mut runtime = self.client.runtime();
        let pod_sandbox_id = self.sandbox;
        let request = StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() };
        answer("StopPodSandbox", runtime.stop_pod_sandbox(request).await)?;
        let request = RemovePodSandboxRequest { pod_sandbox_id };
        answer("RemovePodSandbox", runtime.remove_pod_sandbox(request).await).map(drop)
    }

    fn id(&self, container: &str) -> Result<&str, Error> {
        let id = self.containers.get(container).map(|started| started.id.as_str());
        id.ok_or_else(|| Error::NoContainer(container.to_owned()))
    }

    /// Starts a container in the sandbox, whatever runs there; under a name that one had before, the next attempt of it.
    pub async fn start(&mut self, spec: &ContainerSpec) -> Result<(), Error> {
        let mut runtime = self.client.runtime();
        let attempt = self.containers.get(&spec.name).map_or(0, |before| before.attempt + 1);
        let target = spec.target.as_deref().map(|target| self.id(target)).transpose()?;
        let request = CreateContainerRequest {
            pod_sandbox_id: self.sandbox.clone(),
            config: Some(container_config(spec, attempt, namespaces(self.user_namespace, target))),
            sandbox_config: Some(self.config.clone()),
        };
        let id = answer("CreateContainer", runtime.create_container(request).await)?.container_id;
        self.containers.insert(spec.name.clone(), Started { id: id.clone(), attempt });
        let request = StartContainerRequest { container_id: id };
        answer("StartContainer", runtime.start_container(request).await).map(drop)
    }
}

/// The machine's network, which needs no plugin; the pod's IPC namespace, and a process namespace of each container's own
/// or that of another.
///
/// A user namespace comes with a network of its own, as only who owns one may mount a sysfs of it.
fn namespaces(user_namespace: bool, target: Option<&str>) -> NamespaceOption {
    let range = || vec![IdMapping { host_id: FIRST_USER, container_id: 0, length: USERS }];
    NamespaceOption {
        userns_options: user_namespace.then(|| UserNamespace {
            mode: NamespaceMode::Pod.into(),
            uids: range(),
            gids: range(),
        }),
        network: if user_namespace { NamespaceMode::Pod } else { NamespaceMode::Node }.into(),
        pid: target.map_or(NamespaceMode::Container, |_| NamespaceMode::Target).into(),
        ipc: NamespaceMode::Pod.into(),
        target_id: target.unwrap_or_default().to_owned(),
    }
}

fn sandbox_config(group: &str, spec: &PodSpec) -> PodSandboxConfig {
    let privileged = spec.containers.iter().any(|container| container.privileged);
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: spec.name.clone(),
            uid: uuid::Uuid::new_v4().to_string(),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        annotations: spec.annotations.clone().into_iter().collect(),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: format!("/{group}"),
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(spec.user_namespace, None)),
                privileged,
            }),
        }),
    }
}

fn container_config(spec: &ContainerSpec, attempt: u32, namespaces: NamespaceOption) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: spec.name.clone(), attempt }),
        image: Some(ImageSpec { image: spec.image.clone().unwrap_or_else(|| REFERENCE.to_owned()) }),
        envs: spec.env.iter().map(|(key, value)| KeyValue { key: key.clone(), value: value.clone() }).collect(),
        annotations: spec.annotations.clone().into_iter().collect(),
        linux: Some(LinuxContainerConfig {
            security_context: Some(LinuxContainerSecurityContext {
                privileged: spec.privileged,
                namespace_options: Some(namespaces),
            }),
        }),
        cdi_devices: spec.cdi_devices.iter().map(|name| CdiDevice { name: name.clone() }).collect(),
    }
}
