//! What is read of each kind of object; all else is dropped while it is parsed, so that a page of objects is small.
use std::borrow::Cow;

use k8s_openapi::{
    ClusterResourceScope, NamespaceResourceScope,
    api::{
        core::v1,
        resource::v1::{ResourceClaim, ResourceSlice},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time},
};
use kube::Resource;
use serde::{Deserialize, Deserializer};

/// A Node's metadata.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Node {
    #[serde(deserialize_with = "slim")]
    pub(crate) metadata: ObjectMeta,
}

/// A Pod's metadata.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Pod {
    #[serde(deserialize_with = "slim")]
    pub(crate) metadata: ObjectMeta,
}

/// A ResourceSlice without what its devices are like.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Slice {
    #[serde(deserialize_with = "slim")]
    pub(crate) metadata: ObjectMeta,
    #[serde(default)]
    pub(crate) spec: SliceSpec,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SliceSpec {
    pub(crate) node_name: Option<String>,
    #[serde(default)]
    pub(crate) pool: Pool,
    pub(crate) devices: Option<Vec<Named>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Pool {
    pub(crate) name: String,
    pub(crate) generation: i64,
    pub(crate) resource_slice_count: i64,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Named {
    pub(crate) name: String,
}

/// A ResourceClaim without what it asks for.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Claim {
    #[serde(deserialize_with = "slim")]
    pub(crate) metadata: ObjectMeta,
    #[serde(default)]
    pub(crate) status: Option<ClaimStatus>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ClaimStatus {
    pub(crate) allocation: Option<Allocation>,
    pub(crate) reserved_for: Option<Vec<Consumer>>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Allocation {
    #[serde(default)]
    pub(crate) devices: Devices,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Devices {
    pub(crate) results: Option<Vec<Allocated>>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Allocated {
    pub(crate) driver: String,
    pub(crate) pool: String,
    pub(crate) device: String,
}

/// An entry of `reservedFor`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Consumer {
    pub(crate) api_group: Option<String>,
    pub(crate) resource: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

impl Consumer {
    /// Consumers of other kinds are their owners' business, as they are for Kubernetes.
    pub(crate) fn is_pod(&self) -> bool {
        self.resource == "pods" && self.api_group.as_deref().unwrap_or_default().is_empty()
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Slim {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    deletion_timestamp: Option<Time>,
    owner_references: Option<Vec<OwnerReference>>,
    finalizers: Option<Vec<String>>,
}

fn slim<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let Slim { name, namespace, uid, resource_version, deletion_timestamp, owner_references, finalizers } =
        Slim::deserialize(deserializer)?;
    Ok(ObjectMeta {
        name,
        namespace,
        uid,
        resource_version,
        deletion_timestamp,
        owner_references,
        finalizers,
        ..ObjectMeta::default()
    })
}

macro_rules! resource {
    ($own:ty, $of:ty, $scope:ty, metadata: $metadata:expr) => {
        impl Resource for $own {
            type DynamicType = ();
            type Scope = $scope;

            fn kind((): &()) -> Cow<'_, str> {
                <$of>::kind(&())
            }

            fn group((): &()) -> Cow<'_, str> {
                <$of>::group(&())
            }

            fn version((): &()) -> Cow<'_, str> {
                <$of>::version(&())
            }

            fn plural((): &()) -> Cow<'_, str> {
                <$of>::plural(&())
            }

            fn metadata_api() -> bool {
                $metadata
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

resource!(Node, v1::Node, ClusterResourceScope, metadata: true);
resource!(Pod, v1::Pod, NamespaceResourceScope, metadata: true);
resource!(Slice, ResourceSlice, ClusterResourceScope, metadata: false);
resource!(Claim, ResourceClaim, NamespaceResourceScope, metadata: false);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_used_is_kept_and_nothing_else_is_needed() {
        let claim: Claim = serde_json::from_value(json!({"kind": "ResourceClaim",
            "metadata": {"name": "c", "annotations": {"a": "b"}, "managedFields": [{"manager": "m"}]},
            "spec": {"devices": {"requests": []}},
            "status": {"allocation": {"devices": {"results": [{"request": "r", "driver": "d", "pool": "p", "device": "x"}]}}}}))
        .unwrap();
        assert!(claim.metadata.managed_fields.is_none() && claim.metadata.annotations.is_none());
        assert_eq!(claim.metadata.name.as_deref(), Some("c"));
        assert!(serde_json::from_value::<Claim>(json!({"metadata": {}})).unwrap().status.is_none());
        assert!(serde_json::from_value::<Slice>(json!({"metadata": {"name": "s"}, "spec": {}})).is_ok());
    }

    #[test]
    fn only_pods_of_the_core_group_are_pods() {
        let consumer = |group: Option<&str>, resource: &str| Consumer {
            api_group: group.map(ToOwned::to_owned),
            resource: resource.to_owned(),
            name: String::new(),
            uid: String::new(),
        };
        assert!(consumer(None, "pods").is_pod() && consumer(Some(""), "pods").is_pod());
        assert!(!consumer(Some("example.com"), "pods").is_pod() && !consumer(None, "podgroups").is_pod());
    }
}
