//! What in the index looks stale or stuck. Pure; it says what is worth a look and proves nothing.
use std::collections::{HashMap, HashSet};

use crate::index::{Claim, Held, Index, Slice, Uid};

/// Everything that looks wrong at one moment.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    pub(crate) slices: HashSet<StaleSlice>,
    pub(crate) claims: HashSet<StuckClaim>,
}

/// A slice whose Node isn't there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct StaleSlice {
    pub(crate) name: Box<str>,
    pub(crate) uid: Uid,
}

/// A claim, and what keeps it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StuckClaim {
    pub(crate) claim: Uid,
    pub(crate) stuck: Stuck,
}

/// What keeps a claim.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Stuck {
    /// It is being deleted, and is still allocated.
    Deleting,
    /// It is reserved for a pod that is gone.
    GonePod(Uid),
    /// It is in use, and its GPU isn't there, though others of the node are.
    GoneGpu(Held),
    /// It is in use, and the driver sees no GPU on the node at all. The GPU may well work.
    UnseenGpu(Held),
}

/// Looks at everything.
pub(crate) fn judge(index: &Index) -> Findings {
    let slices = index.slices.iter().filter(|(_, slice)| is_stale(index, slice));
    let slices = slices.map(|(name, slice)| StaleSlice { name: name.clone(), uid: slice.uid.clone() }).collect();
    let pools = Pool::all(index);
    let mut claims = HashSet::new();
    for (uid, claim) in index.claims.iter() {
        let stuck = stuck(index, &pools, claim).map(|stuck| StuckClaim { claim: uid.clone(), stuck });
        claims.extend(stuck);
    }
    Findings { slices, claims }
}

/// A slice without a node is another one's business, and so is one that names no owner while its Node is there.
fn is_stale(index: &Index, slice: &Slice) -> bool {
    let Some(node) = &slice.node else { return false };
    match index.nodes.get(node) {
        None => true,
        Some(uid) => slice.owner.as_ref().is_some_and(|owner| owner != uid),
    }
}

fn stuck<'a>(index: &'a Index, pools: &'a HashMap<&str, Pool<'_>>, claim: &'a Claim) -> impl Iterator<Item = Stuck> {
    let deleting = claim.is_deleting.then_some(Stuck::Deleting);
    let gone = claim.pods.iter().filter(|pod| index.pods.get(&pod.uid).is_none());
    let gone = gone.map(|pod| Stuck::GonePod(pod.uid.clone()));
    // Without a user, nobody misses the GPU.
    let held = claim.devices.iter().filter(|_| claim.is_reserved);
    let devices = held.filter_map(|held| pools.get(&*held.pool)?.without(held));
    deleting.into_iter().chain(gone).chain(devices)
}

/// What the slices of a node say of a GPU that is in use; none if it is there, or if nothing follows from them. The Node is
/// the one of this UID.
pub(crate) fn without(slices: &[Slice], node: &Uid, held: &Held) -> Option<Stuck> {
    let of_node = slices.iter().filter(|slice| slice.owner.as_ref().is_none_or(|owner| owner == node));
    Pool::by_name(of_node).get(&*held.pool)?.without(held)
}

/// A pool's slices of the newest generation.
#[derive(Debug, Default)]
struct Pool<'a> {
    generation: i64,
    slices: Vec<&'a Slice>,
}

impl<'a> Pool<'a> {
    fn all(index: &'a Index) -> HashMap<&'a str, Self> {
        // Of a node that is gone, nothing follows from what is published.
        Self::by_name(index.slices.iter().map(|(_, slice)| slice).filter(|slice| !is_stale(index, slice)))
    }

    fn by_name(slices: impl Iterator<Item = &'a Slice>) -> HashMap<&'a str, Self> {
        let mut pools: HashMap<&str, Self> = HashMap::new();
        for slice in slices {
            let pool = pools.entry(&slice.pool).or_default();
            if slice.generation > pool.generation {
                *pool = Self { generation: slice.generation, slices: Vec::new() };
            }
            if slice.generation == pool.generation {
                pool.slices.push(slice);
            }
        }
        pools
    }

    /// Whether the node says that the GPU isn't there, or that it sees none.
    ///
    /// A device that is held may well be unpublished: after a change of policy the driver withdraws it until its holders
    /// have left. But it goes on to publish the GPU's admin device meanwhile, so that of a GPU which works something is
    /// always published. A pool that isn't complete says nothing, and neither does one without slices: its driver is away.
    ///
    /// A pool that is complete and empty is what the driver publishes while NVML doesn't answer, as in an update of NVIDIA's
    /// driver: the GPUs' users may run on.
    fn without(&self, held: &Held) -> Option<Stuck> {
        let is_complete = |slice: &&Slice| usize::try_from(slice.slices) == Ok(self.slices.len());
        if !self.slices.first().is_some_and(is_complete) {
            return None;
        }
        let mut gpus = self.slices.iter().flat_map(|slice| &slice.gpus).peekable();
        if gpus.peek().is_none() {
            return Some(Stuck::UnseenGpu(held.clone()));
        }
        (!gpus.any(|there| *there == held.gpu)).then(|| Stuck::GoneGpu(held.clone()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        index::{Change, uid},
        objects,
    };

    const DRIVER: &str = "gpu.aliquot.dev";

    fn node(index: &mut Index, name: &str, uid: &str) {
        index.nodes.apply(Change::Put(name.into(), Some(Uid::new(uid))));
    }

    fn slice(index: &mut Index, name: &str, owner: Option<&str>, (generation, count): (i64, i64), devices: &[&str]) {
        let owners: Vec<Value> =
            owner.iter().map(|uid| json!({"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": uid})).collect();
        let devices: Vec<Value> = devices.iter().map(|name| json!({"name": name})).collect();
        let pool = json!({"name": "gpu.aliquot.dev/n1", "generation": generation, "resourceSliceCount": count});
        let slice: objects::Slice = serde_json::from_value(json!({
            "metadata": {"name": name, "uid": name, "ownerReferences": owners},
            "spec": {"driver": DRIVER, "nodeName": "n1", "pool": pool, "devices": devices}}))
        .unwrap();
        index.slices.apply(Change::Put(name.into(), Some(Slice::new(&slice))));
    }

    fn claim(index: &mut Index, device: &str, deleting: bool, pods: &[&str]) {
        let deleted = if deleting { json!("2026-01-01T00:00:00Z") } else { Value::Null };
        let reserved: Vec<Value> =
            pods.iter().map(|pod| json!({"resource": "pods", "name": pod, "uid": pod})).collect();
        let results = json!([{"request": "r", "driver": DRIVER, "pool": "gpu.aliquot.dev/n1", "device": device}]);
        let claim: objects::Claim = serde_json::from_value(json!({
            "metadata": {"name": "c", "namespace": "ns", "uid": "c", "deletionTimestamp": deleted},
            "status": {"allocation": {"devices": {"results": results}}, "reservedFor": reserved}}))
        .unwrap();
        index.claims.apply(Change::Put(uid(&claim.metadata), Claim::new(&claim, DRIVER)));
    }

    fn stale(index: &Index) -> Vec<String> {
        let mut names: Vec<String> = judge(index).slices.into_iter().map(|slice| slice.name.into_string()).collect();
        names.sort();
        names
    }

    fn stuck_of(index: &Index) -> Vec<Stuck> {
        let mut stuck: Vec<Stuck> = judge(index).claims.into_iter().map(|claim| claim.stuck).collect();
        stuck.sort();
        stuck
    }

    #[test]
    fn slices_are_stale_without_their_node_or_with_another_one_of_its_name() {
        let mut index = Index::default();
        slice(&mut index, "owned", Some("u1"), (1, 2), &[]);
        slice(&mut index, "free", None, (1, 2), &[]);
        assert_eq!(stale(&index), ["free", "owned"]);
        node(&mut index, "n1", "u1");
        assert!(stale(&index).is_empty());
        node(&mut index, "n1", "u2");
        assert_eq!(stale(&index), ["owned"]);
    }

    #[test]
    fn a_claim_is_stuck_while_it_is_deleted_or_reserved_for_pods_that_are_gone() {
        let mut index = Index::default();
        index.pods.apply(Change::Put(Uid::new("p1"), Some(())));
        claim(&mut index, "gpu-0000-41-00", false, &["p1"]);
        assert!(stuck_of(&index).is_empty());
        claim(&mut index, "gpu-0000-41-00", true, &["p1", "p2"]);
        assert_eq!(stuck_of(&index), [Stuck::Deleting, Stuck::GonePod(Uid::new("p2"))]);
    }

    #[test]
    fn a_withdrawn_device_is_no_news_while_something_of_its_gpu_is_published() {
        let mut index = Index::default();
        node(&mut index, "n1", "u1");
        index.pods.apply(Change::Put(Uid::new("p1"), Some(())));
        claim(&mut index, "gpu-0000-41-00-shared", false, &["p1"]);
        assert!(stuck_of(&index).is_empty(), "no pool: its driver is away");
        slice(&mut index, "a", Some("u1"), (1, 1), &["gpu-0000-41-00-admin", "gpu-0000-42-00"]);
        assert!(stuck_of(&index).is_empty());
        slice(&mut index, "a", Some("u1"), (2, 2), &["gpu-0000-42-00"]);
        assert!(stuck_of(&index).is_empty(), "the pool isn't complete");
        slice(&mut index, "b", Some("u1"), (2, 2), &["gpu-0000-41-00-1"]);
        assert!(matches!(stuck_of(&index)[..], [Stuck::GoneGpu(_)]), "another function is another GPU");
        slice(&mut index, "old", Some("u1"), (1, 1), &["gpu-0000-41-00"]);
        assert!(matches!(stuck_of(&index)[..], [Stuck::GoneGpu(_)]), "an older generation says nothing");
        slice(&mut index, "b", Some("u1"), (2, 2), &["gpu-0000-41-00"]);
        assert!(stuck_of(&index).is_empty());
        index.nodes.apply(Change::Gone("n1".into()));
        slice(&mut index, "b", Some("u1"), (2, 2), &[]);
        assert!(stuck_of(&index).is_empty(), "a node that is gone has no GPUs to lack");
    }

    #[test]
    fn a_node_that_sees_no_gpu_at_all_says_of_none_that_it_is_gone() {
        let mut index = Index::default();
        node(&mut index, "n1", "u1");
        index.pods.apply(Change::Put(Uid::new("p1"), Some(())));
        claim(&mut index, "gpu-0000-41-00", false, &["p1"]);
        slice(&mut index, "a", Some("u1"), (1, 1), &[]);
        assert!(matches!(stuck_of(&index)[..], [Stuck::UnseenGpu(_)]));
        slice(&mut index, "a", Some("u1"), (2, 1), &["gpu-0000-42-00"]);
        assert!(matches!(stuck_of(&index)[..], [Stuck::GoneGpu(_)]));
    }

    #[test]
    fn slices_of_another_node_of_the_name_say_nothing_of_its_gpus() {
        let mut index = Index::default();
        slice(&mut index, "a", Some("u1"), (1, 1), &["gpu-0000-42-00"]);
        let slices: Vec<Slice> = index.slices.iter().map(|(_, slice)| slice.clone()).collect();
        let held = Held { pool: "gpu.aliquot.dev/n1".into(), gpu: "gpu-0000-41-00".into() };
        assert_eq!(without(&slices, &Uid::new("u1"), &held), Some(Stuck::GoneGpu(held.clone())));
        assert_eq!(without(&slices, &Uid::new("u2"), &held), None);
    }

    #[test]
    fn nobody_misses_the_gpu_of_a_claim_without_users() {
        let mut index = Index::default();
        node(&mut index, "n1", "u1");
        slice(&mut index, "a", Some("u1"), (1, 1), &["gpu-0000-42-00"]);
        claim(&mut index, "gpu-0000-41-00", false, &[]);
        assert!(stuck_of(&index).is_empty());
    }
}
