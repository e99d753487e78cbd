//! Which GPUs others hand out, and which of their pods hold them: from what the kubelet and slices say. Pure.
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use aliquot_model::{Gpu, GpuUuid, Inventory};

use super::{id::Named, published::Published};

/// Somebody else who hands out GPUs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Other {
    /// A device plugin, of which the kubelet knows the resource only.
    Plugin(String),
    /// A DRA driver, by its name.
    Driver(String),
}

impl Other {
    /// The resource or driver.
    pub(crate) fn name(&self) -> &str {
        let (Self::Plugin(name) | Self::Driver(name)) = self;
        name
    }

    /// How to have it hand out this node's GPUs no longer.
    pub(crate) fn remedy(&self, node: &str) -> String {
        match self {
            Self::Plugin(_) => format!(
                "keep the plugin off this node (GPU operator: kubectl label node {node} \
                 nvidia.com/gpu.deploy.device-plugin=false --overwrite), or restrict it to other GPUs \
                 (NVIDIA_VISIBLE_DEVICES of its container)"
            ),
            Self::Driver(_) => "keep that driver off this node, or its GPUs off it (NVIDIA's chart: \
                 kubeletPlugin.affinity, resources.gpus.enabled)"
                .to_owned(),
        }
    }
}

impl fmt::Display for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plugin(resource) => write!(f, "the device plugin of {resource}"),
            Self::Driver(driver) => write!(f, "the DRA driver {driver}"),
        }
    }
}

/// A pod, as the kubelet names it here: without its UID.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// A device of a DRA driver.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DraDevice {
    pub(crate) driver: String,
    pub(crate) pool: String,
    pub(crate) name: String,
}

/// What the kubelet says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Plugins {
    /// What device plugins have for pods: resource and GPU.
    pub(crate) offered: BTreeSet<(String, Named)>,
    /// What pods hold of that.
    pub(crate) held: BTreeSet<(String, Named, Pod)>,
    /// What pods hold of any DRA driver.
    pub(crate) claimed: BTreeSet<(DraDevice, Pod)>,
}

/// What is heard of others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Heard {
    pub(crate) plugins: Plugins,
    pub(crate) published: Published,
}

/// This node's GPUs that others hand out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Elsewhere {
    pub(crate) gpus: BTreeMap<GpuUuid, Others>,
    /// Those who hand out parts of GPUs that can't be told.
    pub(crate) unplaced: BTreeSet<Other>,
}

/// Who else hands out a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Others {
    /// Never empty.
    pub(crate) by: BTreeSet<Other>,
    /// Whose pods hold it now.
    pub(crate) held: BTreeSet<(Other, Pod)>,
}

/// Which of these GPUs others hand out. What pods hold counts as handed out, whether it is offered or not: after a restart,
/// the kubelet knows a plugin's pods before it knows the plugin.
pub(crate) fn judge(inventory: &Inventory, heard: &Heard) -> Elsewhere {
    let Heard { plugins, published } = heard;
    let mut elsewhere = Elsewhere::default();
    for (resource, named) in &plugins.offered {
        elsewhere.add(inventory, Other::Plugin(resource.clone()), named, None);
    }
    for (device, named) in published.devices() {
        elsewhere.add(inventory, Other::Driver(device.driver.clone()), named, None);
    }
    for (resource, named, pod) in &plugins.held {
        elsewhere.add(inventory, Other::Plugin(resource.clone()), named, Some(pod));
    }
    for (device, pod) in &plugins.claimed {
        if let Some(named) = published.named(device) {
            elsewhere.add(inventory, Other::Driver(device.driver.clone()), named, Some(pod));
        }
    }
    elsewhere
}

impl Elsewhere {
    fn add(&mut self, inventory: &Inventory, other: Other, named: &Named, holder: Option<&Pod>) {
        let Some(gpu) = find(inventory, named) else {
            if *named == Named::Partition && !inventory.gpus().is_empty() {
                self.unplaced.insert(other);
            }
            return;
        };
        let others = self.gpus.entry(gpu.uuid.clone()).or_default();
        others.held.extend(holder.map(|pod| (other.clone(), pod.clone())));
        others.by.insert(other);
    }
}

/// The GPU that somebody names. A part of the node's only GPU is a part of that one.
fn find<'a>(inventory: &'a Inventory, named: &Named) -> Option<&'a Gpu> {
    let mut gpus = inventory.gpus().iter();
    match named {
        Named::Uuid(uuid) => gpus.find(|gpu| gpu.uuid == *uuid),
        Named::Pci(pci) => gpus.find(|gpu| gpu.pci == *pci),
        Named::Minor(minor) => gpus.find(|gpu| gpu.minor == *minor),
        Named::Index(index) => gpus.find(|gpu| gpu.index == *index),
        Named::Partition if inventory.broken().is_empty() => gpus.next().filter(|_| gpus.next().is_none()),
        Named::Partition => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use aliquot_model::testing::gpu;

    use super::*;
    use crate::others::published::tests::slice;

    impl Plugins {
        /// Of a plugin that offers one GPU.
        pub(crate) fn of_gpu(resource: &str, gpu: &Gpu) -> Self {
            let offered = BTreeSet::from([(resource.to_owned(), Named::Uuid(gpu.uuid.clone()))]);
            Self { offered, ..Self::default() }
        }
    }

    pub(crate) fn pod(name: &str) -> Pod {
        Pod { namespace: "team".into(), name: name.into() }
    }

    pub(crate) fn plugin(name: &str) -> Other {
        Other::Plugin(name.into())
    }

    fn inventory(count: u8) -> Inventory {
        Inventory::new((0..count).map(gpu).collect(), vec![])
    }

    fn offered(named: &[Named]) -> Heard {
        let offered = named.iter().map(|named| ("nvidia.com/gpu".to_owned(), named.clone())).collect();
        Heard { plugins: Plugins { offered, ..Plugins::default() }, ..Heard::default() }
    }

    #[test]
    fn a_gpu_is_found_by_whatever_names_it_and_others_are_left_alone() {
        for named in [Named::Uuid(gpu(1).uuid), Named::Pci(gpu(1).pci), Named::Minor(1), Named::Index(1)] {
            let found = judge(&inventory(3), &offered(&[named]));
            assert_eq!(found.gpus.keys().collect::<Vec<_>>(), [&gpu(1).uuid]);
        }
        let gone = [Named::Uuid(gpu(7).uuid), Named::Pci(gpu(7).pci), Named::Minor(7), Named::Index(7)];
        assert_eq!(judge(&inventory(3), &offered(&gone)), Elsewhere::default());
    }

    #[test]
    fn a_mig_device_without_its_gpu_is_that_of_the_only_one_or_of_some() {
        let heard = offered(&[Named::Partition]);
        assert_eq!(judge(&inventory(1), &heard).gpus.len(), 1);
        let some = judge(&inventory(2), &heard);
        assert_eq!((some.gpus.len(), some.unplaced), (0, BTreeSet::from([plugin("nvidia.com/gpu")])));
        assert_eq!(judge(&inventory(0), &heard), Elsewhere::default());
    }

    #[test]
    fn what_a_pod_holds_is_handed_out_even_if_nobody_offers_it() {
        let held = BTreeSet::from([("nvidia.com/gpu".to_owned(), Named::Index(0), pod("p"))]);
        let heard = Heard { plugins: Plugins { held, ..Plugins::default() }, ..Heard::default() };
        let found = judge(&inventory(1), &heard);
        let others = &found.gpus[&gpu(0).uuid];
        assert_eq!(others.by, BTreeSet::from([plugin("nvidia.com/gpu")]));
        assert_eq!(others.held, BTreeSet::from([(plugin("nvidia.com/gpu"), pod("p"))]));
    }

    #[test]
    fn a_driver_is_known_by_its_slices_and_its_pods_by_their_claims() {
        let published = Published::of("ours", [&slice("a", "gpu.nvidia.com", "0000:01:00.0")]);
        let device = |driver: &str| DraDevice { driver: driver.into(), pool: "p".into(), name: "d".into() };
        let claimed = BTreeSet::from([(device("gpu.nvidia.com"), pod("p")), (device("ours"), pod("q"))]);
        let heard = Heard { plugins: Plugins { claimed, ..Plugins::default() }, published };
        let found = judge(&inventory(2), &heard);
        let theirs = Other::Driver("gpu.nvidia.com".into());
        assert_eq!(found.gpus.len(), 1);
        assert_eq!(found.gpus[&gpu(1).uuid].held, BTreeSet::from([(theirs, pod("p"))]));
    }
}
