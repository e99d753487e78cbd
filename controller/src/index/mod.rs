//! What is known of the cluster: compact, and kept by the watches. Pure.
mod gpu;
mod table;
mod uid;

use std::collections::HashSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
pub(crate) use table::{Change, Table};
pub(crate) use uid::Uid;

use crate::objects;

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// By name.
    pub(crate) nodes: Table<Box<str>, Uid>,
    pub(crate) pods: Table<Uid, ()>,
    /// Those of the driver, by name.
    pub(crate) slices: Table<Box<str>, Slice>,
    /// Those that the driver's devices are allocated to.
    pub(crate) claims: Table<Uid, Claim>,
}

/// One ResourceSlice of the driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slice {
    pub(crate) uid: Uid,
    pub(crate) resource_version: Box<str>,
    pub(crate) node: Option<Box<str>>,
    /// The Node that owns it.
    pub(crate) owner: Option<Uid>,
    pub(crate) pool: Box<str>,
    pub(crate) generation: i64,
    /// Of the pool.
    pub(crate) slices: i64,
    /// Of which it has devices.
    pub(crate) gpus: Box<[Box<str>]>,
}

/// One ResourceClaim with devices of the driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) namespace: Box<str>,
    pub(crate) name: Box<str>,
    pub(crate) is_deleting: bool,
    pub(crate) pods: Box<[PodRef]>,
    /// Whether it is reserved for anything at all.
    pub(crate) is_reserved: bool,
    pub(crate) devices: Box<[Held]>,
}

/// A pod that a claim is reserved for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PodRef {
    pub(crate) name: Box<str>,
    pub(crate) uid: Uid,
}

/// A GPU of which a claim has a device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Held {
    pub(crate) pool: Box<str>,
    pub(crate) gpu: Box<str>,
}

impl Index {
    /// Whether everything has been listed once.
    pub(crate) fn is_complete(&self) -> bool {
        let Self { nodes, pods, slices, claims } = self;
        nodes.is_complete() && pods.is_complete() && slices.is_complete() && claims.is_complete()
    }
}

/// The UID of an object, which every object that comes from an API server has.
pub(crate) fn uid(metadata: &ObjectMeta) -> Uid {
    Uid::new(metadata.uid.as_deref().unwrap_or_default())
}

/// The name of an object.
pub(crate) fn name(metadata: &ObjectMeta) -> Box<str> {
    text(metadata.name.as_deref())
}

fn text(text: Option<&str>) -> Box<str> {
    text.unwrap_or_default().into()
}

impl Slice {
    pub(crate) fn new(slice: &objects::Slice) -> Self {
        let objects::Slice { metadata, spec } = slice;
        let devices = spec.devices.iter().flatten();
        let gpus: HashSet<&str> = devices.filter_map(|device| gpu::of(&device.name)).collect();
        let is_node = |owner: &&OwnerReference| owner.kind == "Node" && owner.api_version == "v1";
        let owner = metadata.owner_references.iter().flatten().find(is_node);
        Self {
            uid: uid(metadata),
            resource_version: text(metadata.resource_version.as_deref()),
            node: spec.node_name.as_deref().map(Into::into),
            owner: owner.map(|owner| Uid::new(&owner.uid)),
            pool: spec.pool.name.as_str().into(),
            generation: spec.pool.generation,
            slices: spec.pool.resource_slice_count,
            gpus: gpus.into_iter().map(Into::into).collect(),
        }
    }
}

impl Claim {
    /// None for a claim without devices of the driver.
    pub(crate) fn new(claim: &objects::Claim, driver: &str) -> Option<Self> {
        let status = claim.status.as_ref()?;
        let results = status.allocation.as_ref()?.devices.results.iter().flatten();
        let ours: Vec<_> = results.filter(|result| result.driver == driver).collect();
        if ours.is_empty() {
            return None;
        }
        let held = ours.iter().filter_map(|result| {
            Some(Held { pool: result.pool.as_str().into(), gpu: gpu::of(&result.device)?.into() })
        });
        let devices: HashSet<Held> = held.collect();
        let consumers = status.reserved_for.as_deref().unwrap_or_default();
        let pods = consumers.iter().filter(|consumer| consumer.is_pod());
        let pod =
            |consumer: &objects::Consumer| PodRef { name: consumer.name.as_str().into(), uid: Uid::new(&consumer.uid) };
        Some(Self {
            namespace: text(claim.metadata.namespace.as_deref()),
            name: name(&claim.metadata),
            is_deleting: claim.metadata.deletion_timestamp.is_some(),
            pods: pods.map(pod).collect(),
            is_reserved: !consumers.is_empty(),
            devices: devices.into_iter().collect(),
        })
    }
}
