//! The requirement's four pods.
use k8s_openapi::{
    api::core::v1::{
        Affinity, Container, EnvVar, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod,
        PodSpec, ResourceRequirements,
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};

use super::{RESOURCE, RUNTIME_CLASS};

/// The container of each pod.
pub(super) const CONTAINER: &str = "cuda-container";

/// A pod of the requirement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// It asks for a GPU.
    Accessible,
    /// It asks for a GPU beside another that does, and names the first one that it sees.
    First,
    /// The same, but names the second one, which it must not see.
    Second,
    /// It asks for none.
    Unauthorized,
}

impl Role {
    /// The pod's name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Accessible => "ai-conformance-gpu-accessibility",
            Self::First => "ai-conformance-gpu-pod1",
            Self::Second => "ai-conformance-gpu-pod2",
            Self::Unauthorized => "ai-conformance-gpu-accessibility-unauthorized",
        }
    }

    /// The pod, which sleeps until it is deleted.
    pub(super) fn pod(self, image: &str) -> Pod {
        let visible = match self {
            Self::First => Some("0"),
            Self::Second => Some("1"),
            Self::Accessible | Self::Unauthorized => None,
        };
        let env = |value: &str| EnvVar {
            name: "CUDA_VISIBLE_DEVICES".to_owned(),
            value: Some(value.to_owned()),
            ..EnvVar::default()
        };
        let limits = [(RESOURCE.to_owned(), Quantity("1".to_owned()))].into();
        let asks = self != Self::Unauthorized;
        let container = Container {
            name: CONTAINER.to_owned(),
            image: Some(image.to_owned()),
            command: Some(["sleep", "3600"].map(ToOwned::to_owned).into()),
            env: visible.map(|value| vec![env(value)]),
            resources: asks.then(|| ResourceRequirements { limits: Some(limits), ..ResourceRequirements::default() }),
            ..Container::default()
        };
        Pod {
            metadata: ObjectMeta { name: Some(self.name().to_owned()), ..ObjectMeta::default() },
            spec: Some(PodSpec {
                containers: vec![container],
                restart_policy: Some("Never".to_owned()),
                runtime_class_name: asks.then(|| RUNTIME_CLASS.to_owned()),
                ..PodSpec::default()
            }),
            status: None,
        }
    }
}

/// The same pod, on this node or nowhere; the scheduler still has to find a GPU for it, unlike with `nodeName`.
pub(super) fn on(node: &str, mut pod: Pod) -> Pod {
    let field = NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let term = NodeSelectorTerm { match_fields: Some(vec![field]), ..NodeSelectorTerm::default() };
    let required = NodeSelector { node_selector_terms: vec![term] };
    let node =
        NodeAffinity { required_during_scheduling_ignored_during_execution: Some(required), ..NodeAffinity::default() };
    if let Some(spec) = &mut pod.spec {
        spec.affinity = Some(Affinity { node_affinity: Some(node), ..Affinity::default() });
    }
    pod
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(role: Role) -> Value {
        serde_json::to_value(role.pod("image")).unwrap()["spec"].take()
    }

    #[test]
    fn the_pods_are_those_of_the_requirement() {
        let container = json!({"name": "cuda-container", "image": "image", "command": ["sleep", "3600"]});
        assert_eq!(spec(Role::Unauthorized), json!({"containers": [container], "restartPolicy": "Never"}));
        let mut asking = container;
        asking["resources"] = json!({"limits": {"nvidia.com/gpu": "1"}});
        let mut pod = json!({"containers": [asking], "restartPolicy": "Never", "runtimeClassName": "nvidia"});
        assert_eq!(spec(Role::Accessible), pod);
        for (role, value) in [(Role::First, "0"), (Role::Second, "1")] {
            pod["containers"][0]["env"] = json!([{"name": "CUDA_VISIBLE_DEVICES", "value": value}]);
            assert_eq!(spec(role), pod);
        }
    }

    #[test]
    fn a_pod_for_one_node_is_left_to_the_scheduler() {
        let pod = serde_json::to_value(on("n1", Role::Second.pod("image"))).unwrap();
        assert!(pod["spec"].get("nodeName").is_none());
        let terms = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
        let field = json!({"key": "metadata.name", "operator": "In", "values": ["n1"]});
        assert_eq!(pod.pointer(terms), Some(&json!([{"matchFields": [field]}])));
    }
}
