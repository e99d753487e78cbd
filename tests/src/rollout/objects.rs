//! The pods that come and go, and the templates of their claims.
use serde_json::{Value, json};

/// What a pod asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A GPU of its own.
    Whole,
    /// A share of one.
    Share,
}

impl Kind {
    pub(super) const ALL: [Self; 2] = [Self::Whole, Self::Share];

    /// The template's name, and how its pods' begin.
    pub(super) fn name(self) -> &'static str {
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
    pub(super) fn template(self) -> Value {
        let request = json!({"name": "gpu", "exactly": {"deviceClassName": self.class()}});
        json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate", "metadata": {"name": self.name()},
            "spec": {"spec": {"devices": {"requests": [request]}}}})
    }

    /// A pod that runs until it is deleted, and then ends at once.
    pub(super) fn pod(self, name: &str, image: &str) -> Value {
        let container = json!({"name": "main", "image": image,
            "command": ["sh", "-c", "trap 'exit 0' TERM; sleep 3600 & wait"],
            "resources": {"claims": [{"name": "gpu"}]}});
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1, "containers": [container],
            "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": self.name()}]}})
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
            let pod: Pod = serde_json::from_value(kind.pod("one", "image")).unwrap();
            let claim = pod.spec.unwrap().resource_claims.unwrap().remove(0);
            assert_eq!(claim.resource_claim_template_name, template.metadata.name);
        }
    }
}
