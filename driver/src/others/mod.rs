//! Who else hands out this node's GPUs, noticed while the driver runs.
//!
//! ```text
//! kubelet: pod-resources socket ─┐                         ┌─> taint: what is offered
//! ResourceSlices of other drivers ┴─> Heard ──> judge ──> Elsewhere ─┼─> tell, collide: events on the Node; metrics
//!                                           (linger)       └─> gate: a prepare on a GPU that another's pod holds
//! ```
//! `id`, `judge`, `linger`, `tell`, `collide` and `taint` are pure; `kubelet` and `follow` are the edges. A device plugin counts by
//! what the kubelet says that it registered, so that extended resources which are served by DRA are never taken for one.
mod collide;
mod follow;
mod gate;
mod id;
mod judge;
mod kubelet;
mod linger;
mod published;
mod taint;
mod tell;

use std::{path::Path, sync::Arc};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub(crate) use follow::Sources;
pub(crate) use gate::Gate;
pub(crate) use judge::{Elsewhere, Heard, Other, Plugins, judge};
pub(crate) use kubelet::Kubelet;
pub(crate) use published::Published;
#[cfg(test)]
pub(crate) use published::tests as testing;
pub(crate) use taint::Marker;

use crate::args::{Identity, OtherPlugins};

/// What has been heard of others, and what follows from it; none until they have been asked once.
pub(crate) type Latest = watch::Receiver<Option<Arc<Known>>>;

/// A way in for the fuzzer.
#[cfg(fuzzing)]
pub(crate) mod fuzzing {
    use aliquot_model::{Inventory, PciAddress};
    use kubelet_api::podresources::v1::{ContainerDevices, PodResources};

    use super::{Heard, Published, id::Named, judge};

    /// What a name is taken for is in it.
    pub(crate) fn device_id(resource: &str, id: &str) {
        match super::id::of_plugin(resource, id) {
            Some(Named::Uuid(uuid)) => {
                assert!(id.to_ascii_lowercase().contains(&uuid.to_string().to_ascii_lowercase()));
            }
            Some(Named::Pci(pci)) => {
                let place = id.to_ascii_lowercase();
                assert!(
                    place.split("::").next().is_some_and(|id| id.parse().is_ok_and(|again: PciAddress| again == pci))
                );
            }
            Some(Named::Minor(number) | Named::Index(number)) => {
                assert!(resource.starts_with("nvidia.com/") && id.contains(&number.to_string()));
            }
            Some(Named::Partition) => assert!(id.starts_with("MIG-")),
            None => {}
        }
    }

    /// Nobody else's devices are taken for GPUs that the node doesn't have, and who holds one hands it out.
    pub(crate) fn answers(inventory: &Inventory, offered: &[ContainerDevices], pods: Vec<PodResources>) {
        let heard = Heard { plugins: super::kubelet::plugins(offered, pods), published: Published::default() };
        let elsewhere = judge(inventory, &heard);
        for (uuid, others) in &elsewhere.gpus {
            assert!(inventory.gpus().iter().any(|gpu| gpu.uuid == *uuid) && !others.by.is_empty());
            assert!(others.held.iter().all(|(other, _)| others.by.contains(other)));
        }
        assert!(elsewhere.unplaced.is_empty() || inventory.gpus().len() > 1);
    }
}

/// What is known of others at one time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Known {
    /// In their words.
    pub(crate) heard: Heard,
    /// Of this node's GPUs.
    pub(crate) elsewhere: Elsewhere,
    /// Whether the kubelet answered when it was last asked.
    pub(crate) kubelet_answers: bool,
}

/// What is done about others on this node.
pub(crate) struct Others {
    settings: follow::Settings,
    known: watch::Sender<Option<Arc<Known>>>,
}

impl Others {
    /// On the node whose kubelet has this root directory.
    pub(crate) fn new(kubelet: &Path, identity: &Identity, mode: OtherPlugins) -> Self {
        let Identity { driver_name, node_name } = identity.clone();
        let settings = follow::Settings { driver: driver_name, node: node_name, kubelet: Kubelet::new(kubelet), mode };
        Self { settings, known: watch::Sender::new(None) }
    }

    /// What is known, now and later.
    pub(crate) fn latest(&self) -> Latest {
        self.known.subscribe()
    }

    /// For prepares.
    pub(crate) fn gate(&self) -> Gate {
        let follow::Settings { node, kubelet, mode, .. } = &self.settings;
        Gate::new(self.latest(), kubelet.clone(), node.clone(), *mode)
    }

    /// For what is published.
    pub(crate) fn marker(&self) -> Marker {
        Marker::new(&self.settings.driver, self.settings.mode)
    }

    /// Keeps what is known up to date until `stop`.
    pub(crate) async fn follow(self, sources: Sources, stop: CancellationToken) {
        Box::pin(follow::follow(self.settings, sources, self.known, stop)).await;
    }
}
