//! What a runtime changes in a container, in the CDI specification's own fields.
use serde::{Deserialize, Serialize};

/// Changes to one container; empty lists are left out of the file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerEdits {
    /// `NAME=value`; these win over the pod's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Device nodes, each of which is also allowed in the container's device cgroup.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub device_nodes: Vec<DeviceNode>,
    /// OCI hooks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<Hook>,
    /// Bind mounts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
}

impl ContainerEdits {
    /// Whether nothing would change.
    pub fn is_empty(&self) -> bool {
        self.env.is_empty() && self.device_nodes.is_empty() && self.hooks.is_empty() && self.mounts.is_empty()
    }
}

/// A device node that the runtime makes in the container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceNode {
    /// In the container.
    pub path: String,
    /// On the host, if it is elsewhere (0.5.0); runtimes read from it what isn't given here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_path: Option<String>,
    /// Which kind of node.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<NodeType>,
    /// The driver's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub major: Option<i64>,
    /// The device's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minor: Option<i64>,
    /// Who may open it (permission bits). crun makes a node that nobody may open in a user namespace if there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_mode: Option<u32>,
    /// What the device cgroup allows: of `r`, `w` and `m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permissions: Option<String>,
}

/// Kinds of device nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeType {
    /// A character device.
    #[serde(rename = "c")]
    Character,
    /// A block device.
    #[serde(rename = "b")]
    Block,
}

/// A bind mount.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// What is mounted.
    pub host_path: String,
    /// Where.
    pub container_path: String,
    /// `bind` (0.4.0), which runtimes know from the options as well: but crun up to 1.28 ends with a segmentation fault in
    /// a pod's user namespace if there is none (containers/crun pull request 2210).
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// As `mount` takes them, for example `ro`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// An OCI hook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hook {
    /// When it runs.
    pub hook_name: HookName,
    /// The program, an absolute path on the host.
    pub path: String,
    /// Its arguments, the program's name included.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// All that it inherits.
    pub env: HookEnv,
    /// In seconds, after which the runtime ends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i64>,
}

/// A hook's environment: `NAME=value`, at least one.
///
/// Runtimes give a hook without one the environment of the container, by which an image can have a root process of the
/// host load what it likes (CVE-2025-23266).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct HookEnv(Vec<String>);

impl HookEnv {
    /// A single variable.
    pub fn one(name: &str, value: &str) -> Self {
        Self(vec![format!("{name}={value}")])
    }
}

/// A hook's environment has no variable, or one that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a hook needs an environment of at least one NAME=value, or it inherits the container's")]
pub struct InvalidHookEnv;

impl TryFrom<Vec<String>> for HookEnv {
    type Error = InvalidHookEnv;

    fn try_from(all: Vec<String>) -> Result<Self, Self::Error> {
        let good = |variable: &String| variable.find('=').is_some_and(|at| at > 0);
        if all.is_empty() || !all.iter().all(good) { Err(InvalidHookEnv) } else { Ok(Self(all)) }
    }
}

impl From<HookEnv> for Vec<String> {
    fn from(env: HookEnv) -> Self {
        env.0
    }
}

/// Points of a container's life (OCI runtime specification).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HookName {
    /// In the runtime's namespaces, after the container's are made.
    CreateRuntime,
    /// In the container's namespaces, before its root is changed.
    CreateContainer,
    /// In the container, before its program starts.
    StartContainer,
    /// After the container is deleted.
    Poststop,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_is_spelled_as_the_specification_spells_it() {
        let hook = Hook {
            hook_name: HookName::CreateRuntime,
            path: "/x/hook".into(),
            args: vec!["hook".into()],
            env: HookEnv::one("PATH", "/nowhere"),
            timeout: Some(15),
        };
        let json = serde_json::json!({"hookName": "createRuntime", "path": "/x/hook", "args": ["hook"],
            "env": ["PATH=/nowhere"], "timeout": 15});
        assert_eq!(serde_json::to_value(&hook).unwrap(), json);
        assert_eq!(serde_json::from_value::<Hook>(json).unwrap(), hook);
    }

    #[test]
    fn a_hook_that_would_inherit_the_containers_environment_cannot_be_had() {
        for env in
            [serde_json::json!([]), serde_json::json!(["PATH"]), serde_json::json!(["=x"]), serde_json::json!(null)]
        {
            let json = serde_json::json!({"hookName": "createRuntime", "path": "/x/hook", "env": env});
            assert!(serde_json::from_value::<Hook>(json).is_err(), "{env}");
        }
    }
}
