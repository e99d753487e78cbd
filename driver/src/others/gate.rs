//! Whether claims that were allocated before may be prepared on GPUs that others hand out too.
use std::sync::Arc;

use aliquot_model::{GpuUuid, Inventory};
use dra_plugin::{Call, ClaimRef};

use super::{
    Known, Latest,
    judge::{Elsewhere, Heard, Other, Pod, judge},
    kubelet::Kubelet,
};
use crate::args::OtherPlugins;

/// Asked by every prepare.
#[derive(Debug, Clone)]
pub struct Gate {
    latest: Latest,
    kubelet: Kubelet,
    node: String,
    mode: OtherPlugins,
}

/// Who holds a GPU that a claim was allocated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InUse {
    device: String,
    other: Other,
    /// If it may be named.
    pod: Option<Pod>,
    node: String,
    /// What becomes of the claim.
    pub(crate) is_refused: bool,
}

impl Gate {
    pub(crate) fn new(latest: Latest, kubelet: Kubelet, node: String, mode: OtherPlugins) -> Self {
        Self { latest, kubelet, node, mode }
    }

    /// The first of these devices, with their GPUs, that a pod of somebody else holds at this moment.
    ///
    /// The kubelet is asked anew, since it tells nobody when a pod ends; but only about GPUs that others are known to hand
    /// out. If it doesn't answer, what it said last counts.
    pub(crate) async fn in_use(
        &self,
        claim: &ClaimRef,
        devices: &[(String, &GpuUuid)],
        inventory: &Inventory,
        call: &Call,
    ) -> Option<InUse> {
        if self.mode == OtherPlugins::Ignore {
            return None;
        }
        let mut latest = self.latest.clone();
        let known: Arc<Known> = call.limit(latest.wait_for(Option::is_some)).await?.ok()?.clone()?;
        if !devices.iter().any(|(_, gpu)| known.elsewhere.gpus.contains_key(*gpu)) {
            return None;
        }
        let now = match call.limit(self.kubelet.ask()).await {
            Some(Ok(plugins)) => judge(inventory, &Heard { plugins, published: known.heard.published.clone() }),
            Some(Err(_)) | None => known.elsewhere.clone(),
        };
        let in_use = self.first(devices, &now, claim.namespace());
        if let Some(InUse { device, other, .. }) = &in_use {
            let holders = devices.iter().filter_map(|(_, gpu)| now.gpus.get(*gpu)).flat_map(|others| &others.held);
            let pods: Vec<String> = holders.map(|(_, pod)| format!("{}/{}", pod.namespace, pod.name)).collect();
            tracing::warn!(claim = %claim, device, pods = pods.join(","), "a pod holds the GPU through {other}");
        }
        in_use
    }

    fn first(&self, devices: &[(String, &GpuUuid)], now: &Elsewhere, namespace: &str) -> Option<InUse> {
        devices.iter().find_map(|(device, gpu)| {
            let held = &now.gpus.get(*gpu)?.held;
            // One that may be named says the most.
            let (other, pod) = held.iter().find(|(_, pod)| pod.namespace == namespace).or_else(|| held.first())?;
            Some(InUse {
                device: device.clone(),
                other: other.clone(),
                pod: Some(pod.clone()).filter(|pod| pod.namespace == namespace),
                node: self.node.clone(),
                is_refused: self.mode == OtherPlugins::Taint,
            })
        })
    }
}

impl InUse {
    /// What, who, and what to do; ends in an event of the claim's namespace, where other namespaces' pods have no business.
    pub(crate) fn note(&self) -> String {
        let Self { device, other, pod, node, is_refused } = self;
        let pod = match pod {
            Some(Pod { namespace, name }) => format!("pod {namespace}/{name}"),
            None => "a pod in another namespace".to_owned(),
        };
        let outcome = if *is_refused {
            "The kubelet tries again once that pod has ended; or delete this pod, to have its claim allocated anew"
        } else {
            "It is prepared all the same, as --other-plugins says warn"
        };
        format!(
            "device {device} is in use: {pod} got the GPU from {other}, which hands out GPUs of this node too. {outcome}. To \
             mend it, {}",
            other.remedy(node)
        )
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        path::Path,
    };

    use aliquot_model::testing::gpu;
    use tokio::sync::watch;

    use super::*;
    use crate::others::judge::{Others, tests::plugin};

    fn pod(namespace: &str) -> Pod {
        Pod { namespace: namespace.into(), name: "p".into() }
    }

    fn elsewhere(held: &[&str]) -> Elsewhere {
        let held = held.iter().map(|namespace| (plugin("nvidia.com/gpu"), pod(namespace))).collect();
        let others = Others { by: BTreeSet::from([plugin("nvidia.com/gpu")]), held };
        Elsewhere { gpus: BTreeMap::from([(gpu(0).uuid, others)]), ..Elsewhere::default() }
    }

    fn gate(known: Option<Known>, root: &Path, mode: OtherPlugins) -> Gate {
        let (_, latest) = watch::channel(known.map(Arc::new));
        Gate::new(latest, Kubelet::new(root), "node1".into(), mode)
    }

    #[test]
    fn a_gpu_is_in_use_where_a_pod_holds_it_and_not_where_it_is_only_offered() {
        let (uuid, free) = (gpu(0).uuid, gpu(1).uuid);
        let devices = [("b".to_owned(), &free), ("a".to_owned(), &uuid)];
        let of = |held: &[&str], mode| gate(None, Path::new("/"), mode).first(&devices, &elsewhere(held), "team");
        assert_eq!(of(&[], OtherPlugins::Taint), None);
        let found = of(&["other", "team"], OtherPlugins::Taint).unwrap();
        assert!(found.is_refused && found.device == "a" && found.pod == Some(pod("team")));
        assert!(!of(&["team"], OtherPlugins::Warn).unwrap().is_refused);
    }

    #[test]
    fn a_pod_of_another_namespace_is_not_named() {
        let uuid = gpu(0).uuid;
        let devices = [("a".to_owned(), &uuid)];
        let note = |namespace| {
            let gate = gate(None, Path::new("/"), OtherPlugins::Taint);
            gate.first(&devices, &elsewhere(&["secret"]), namespace).unwrap().note()
        };
        assert!(note("secret").contains("pod secret/p got the GPU from the device plugin of nvidia.com/gpu"));
        assert!(note("team").contains("a pod in another namespace") && !note("team").contains("secret"));
        assert!(note("team").contains("kubectl label node node1"));
    }

    #[tokio::test]
    async fn without_an_answer_what_the_kubelet_said_last_counts() {
        let dir = tempfile::tempdir().unwrap();
        let claim = ClaimRef::new("team", "c", "u1").unwrap();
        let inventory = Inventory::new(vec![gpu(0), gpu(1)], vec![]);
        let known = Known { elsewhere: elsewhere(&["team"]), ..Known::default() };
        let gate = |mode| gate(Some(known.clone()), dir.path(), mode);
        let call = Call::within(std::time::Duration::from_secs(5));
        let (held, free) = (gpu(0).uuid, gpu(1).uuid);
        let taint = gate(OtherPlugins::Taint);
        assert!(taint.in_use(&claim, &[("a".into(), &held)], &inventory, &call).await.is_some());
        assert_eq!(taint.in_use(&claim, &[("b".into(), &free)], &inventory, &call).await, None);
        let ignore = gate(OtherPlugins::Ignore);
        assert_eq!(ignore.in_use(&claim, &[("a".into(), &held)], &inventory, &call).await, None);
    }
}
