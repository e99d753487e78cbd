//! The kinds of containers that pods have, when each starts, and which CDI devices the kubelet sends for it.
//!
//! The kubelet has all claims of a pod prepared before it makes the sandbox (`PrepareDynamicResources` in `SyncPod`,
//! `pkg/kubelet/kuberuntime`). At each start of a container, the first or a later one, and whatever its kind, it looks up
//! what was answered then for the claims in that container's own `resources.claims`, and nothing else (`GetResources` in
//! `pkg/kubelet/cm/dra/manager.go`, called by `GenerateRunContainerOptions`). Nothing is prepared again for a restart.
use std::fmt;

use super::{
    seen::Own,
    stage::{Held, container},
};
use crate::runtime::ContainerSpec;

/// What a container is in its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// One of `containers`: started when all init containers have ended or are restartable and run.
    Regular,
    /// One of `initContainers`: ended before the next one starts.
    Init,
    /// One of them with `restartPolicy: Always`, which stays (KEP-753).
    Restartable,
    /// One of `ephemeralContainers`: started in a sandbox in which others run, and seeing the processes of one of them
    /// (KEP-277).
    Ephemeral,
    /// One of any kind that has ended and was started again in the same sandbox.
    Restarted,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Regular => "containers",
            Self::Init => "init containers",
            Self::Restartable => "restartable init containers",
            Self::Ephemeral => "ephemeral containers",
            Self::Restarted => "restarted containers",
        })
    }
}

/// A container, as a pod's author can write it.
#[derive(Debug)]
pub(super) enum Asks<'a> {
    /// What it names in `resources.claims`.
    Claims(&'a [&'a Held]),
    /// An ephemeral one, which can't name any: the API server takes no `resources` for it
    /// (`allowedEphemeralContainerFields` in `pkg/apis/core/validation`; "Forbidden: cannot be set for an Ephemeral
    /// Container", as seen on 1.36.2).
    Ephemeral {
        /// The container whose processes it sees.
        target: &'a str,
    },
}

impl Asks<'_> {
    /// What the kubelet asks the runtime for.
    pub(super) fn sent(&self, name: &str) -> ContainerSpec {
        match self {
            Self::Claims(claims) => {
                let ids: Vec<String> = claims.iter().flat_map(|held| held.ids.clone()).collect();
                container(name, &ids)
            }
            Self::Ephemeral { target } => ContainerSpec { target: Some((*target).to_owned()), ..container(name, &[]) },
        }
    }

    /// What the container is to have.
    pub(super) fn own(&self) -> Own {
        match self {
            Self::Claims(claims) => {
                let nodes = claims.iter().flat_map(|held| held.own.nodes.clone()).collect();
                Own { nodes, ..Own::default() }
            }
            Self::Ephemeral { .. } => Own::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testbed::NODE_DEVICE;

    fn held(id: &str, minor: u32) -> Held {
        let nodes = [(format!("/dev/nvidia{minor}"), (195, minor))].into();
        Held::new(vec![id.to_owned()], Own { nodes, ..Own::default() })
    }

    #[test]
    fn a_container_is_sent_the_devices_of_its_own_claims_and_an_ephemeral_one_none() {
        let (a, b) = (held("v/claim=a", 0), held("v/claim=b", 1));
        let sent = |asks: Asks<'_>| (asks.sent("c").cdi_devices, asks.own().nodes.into_values().collect::<Vec<_>>());
        assert_eq!(sent(Asks::Claims(&[])), (vec![], vec![]));
        assert_eq!(sent(Asks::Claims(&[&b])), (vec![NODE_DEVICE.to_owned(), b.ids[0].clone()], vec![(195, 1)]));
        let both = Asks::Claims(&[&a, &b]);
        assert_eq!(both.sent("c").cdi_devices.len(), 4, "the node's device with each claim's, as the driver answered");
        assert_eq!(sent(both).1, [(195, 0), (195, 1)]);
        assert_eq!(sent(Asks::Ephemeral { target: "main" }), (vec![], vec![]));
        assert_eq!(Asks::Ephemeral { target: "main" }.sent("c").target.as_deref(), Some("main"));
    }
}
