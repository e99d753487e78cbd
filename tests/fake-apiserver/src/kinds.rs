//! The kinds of objects that are served.

/// One kind.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    /// As in paths.
    pub(crate) resource: &'static str,
    /// As in `kind`.
    pub(crate) camel: &'static str,
    pub(crate) namespaced: bool,
    /// Whether `status` is a subresource, and no part of other writes.
    pub(crate) status: bool,
}

const fn kind(
    group: &'static str,
    resource: &'static str,
    camel: &'static str,
    namespaced: bool,
    status: bool,
) -> Kind {
    Kind { group, version: "v1", resource, camel, namespaced, status }
}

pub(crate) const KINDS: [Kind; 16] = [
    kind("", "namespaces", "Namespace", false, true),
    kind("", "nodes", "Node", false, true),
    kind("", "pods", "Pod", true, true),
    kind("", "configmaps", "ConfigMap", true, false),
    kind("", "secrets", "Secret", true, false),
    kind("", "serviceaccounts", "ServiceAccount", true, false),
    kind("events.k8s.io", "events", "Event", true, false),
    kind(
        "admissionregistration.k8s.io",
        "validatingwebhookconfigurations",
        "ValidatingWebhookConfiguration",
        false,
        false,
    ),
    kind("coordination.k8s.io", "leases", "Lease", true, false),
    kind("node.k8s.io", "runtimeclasses", "RuntimeClass", false, false),
    kind("resource.k8s.io", "deviceclasses", "DeviceClass", false, false),
    kind("resource.k8s.io", "resourceclaims", "ResourceClaim", true, true),
    kind("resource.k8s.io", "resourceclaimtemplates", "ResourceClaimTemplate", true, false),
    kind("resource.k8s.io", "resourceslices", "ResourceSlice", false, false),
    kind("rbac.authorization.k8s.io", "clusterroles", "ClusterRole", false, false),
    kind("rbac.authorization.k8s.io", "clusterrolebindings", "ClusterRoleBinding", false, false),
];

impl Kind {
    pub(crate) fn find(group: &str, version: &str, resource: &str) -> Option<&'static Self> {
        KINDS.iter().find(|kind| kind.group == group && kind.version == version && kind.resource == resource)
    }

    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }
}
