//! The pods that come and go, and the templates of their claims.
use std::time::Duration;

use serde_json::{Value, json};

/// What a pod asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A GPU of its own.
    Whole,
    /// A share of one.
    Share,
}

impl Kind {
    pub(crate) const ALL: [Self; 2] = [Self::Whole, Self::Share];

    /// The template's name, and how its pods' begin.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Share => "share",
        }
    }

    fn class(self) -> &'static str {
        match self {
            Self::Whole => "gpu.aliquot.dev",
            Self::Share => "share.gpu.aliquot.dev",
        }
    }

    /// The `ResourceClaimTemplate`.
    pub(crate) fn template(self) -> Value {
        let request = json!({"name": "gpu", "exactly": {"deviceClassName": self.class()}});
        json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate", "metadata": {"name": self.name()},
            "spec": {"spec": {"devices": {"requests": [request]}}}})
    }

    /// A pod that stays on its node whatever becomes of that.
    pub(crate) fn pod(self, name: &str, image: &str, act: Act) -> Value {
        let container = json!({"name": "main", "image": image, "command": ["sh", "-c", act.script()],
            "resources": {"claims": [{"name": "gpu"}]}, "volumeMounts": [{"name": "state", "mountPath": "/state"}]});
        let tolerations = ["not-ready", "unreachable"].map(
            |taint| json!({"key": format!("node.kubernetes.io/{taint}"), "operator": "Exists", "effect": "NoExecute"}),
        );
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
            "restartPolicy": act.restart_policy(), "terminationGracePeriodSeconds": 1, "tolerations": tolerations,
            "containers": [container], "volumes": [{"name": "state", "emptyDir": {}}],
            "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": self.name()}]}})
    }
}

/// What a pod does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// Runs until it is deleted, and then ends at once.
    Stay,
    /// Ends well by itself.
    End(Duration),
    /// Its container fails once, and is started again.
    Fail(Duration),
}

impl Act {
    fn script(self) -> String {
        let stay = "trap 'exit 0' TERM; sleep 86400 & wait";
        match self {
            Self::Stay => stay.to_owned(),
            Self::End(after) => format!("trap 'exit 0' TERM; sleep {} & wait", after.as_secs()),
            Self::Fail(after) => {
                let seconds = after.as_secs();
                format!("test -e /state/failed || {{ touch /state/failed; sleep {seconds}; exit 1; }}; {stay}")
            }
        }
    }

    fn restart_policy(self) -> &'static str {
        match self {
            Self::Stay | Self::End(_) => "Never",
            Self::Fail(_) => "Always",
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::{core::v1::Pod, resource::v1::ResourceClaimTemplate};

    use super::*;

    #[test]
    fn pods_and_templates_are_what_the_api_takes_and_fit_together() {
        for kind in Kind::ALL {
            let template: ResourceClaimTemplate = serde_json::from_value(kind.template()).unwrap();
            let pod: Pod = serde_json::from_value(kind.pod("one", "image", Act::Fail(Duration::from_secs(3)))).unwrap();
            let claim = pod.spec.unwrap().resource_claims.unwrap().remove(0);
            assert_eq!(claim.resource_claim_template_name, template.metadata.name);
        }
    }
}
