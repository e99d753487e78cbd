//! A stand-in for the scheduler: picks devices for claims as `k8s.io/dynamic-resource-allocation/structured` does.
//!
//! ```text
//! slices ──> pool, counters ──> what a node can reach ──┐
//! claims ──> in_use ────────────────────────────────────┼──> search (room, constraint) ──> outcome ──> allocation
//! claim, classes ──> ask, selector ─────────────────────┘
//! ```
//!
//! [`allocate`] decides, [`Scheduler`] reads and writes. Not modelled, and an error where it would matter: derived
//! attributes, binding conditions and attributes with lists. Slices with a node selector are out of reach of every node.
mod ask;
mod capacity;
mod constraint;
mod counters;
mod extended;
mod extended_claim;
mod features;
mod identity;
mod in_use;
mod outcome;
mod pool;
mod quantity;
mod refusal;
mod room;
mod scheduler;
mod search;
mod selector;
mod state;
mod templates;

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_extended;
#[cfg(test)]
mod tests_features;
#[cfg(test)]
mod tests_shared;

use std::fmt;

pub use features::Features;
pub use in_use::InUse;
use k8s_openapi::api::resource::v1::{AllocationResult, DeviceClass, ResourceClaim, ResourceSlice};
pub use quantity::NotAQuantity;
pub use refusal::{Refusal, Refusals};
use room::Room;
pub use scheduler::{ScheduleError, Scheduler};
use search::Search;
pub use selector::SelectorError;

/// A device's name within the cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId {
    /// The driver that publishes it.
    pub driver: String,
    /// The driver's pool.
    pub pool: String,
    /// The device's name within the pool.
    pub device: String,
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.driver, self.pool, self.device)
    }
}

/// Why a claim cannot be allocated on a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unallocatable {
    /// There is no such class.
    #[error("request {request}: device class {class} not found")]
    NoClass {
        /// The request, or `request/subrequest`.
        request: String,
        /// The class that it names.
        class: String,
    },
    /// A selector cannot be evaluated.
    #[error(transparent)]
    Selector(#[from] SelectorError),
    /// Something that this stand-in does not model.
    #[error("{at}: this stand-in does not model {field}")]
    Unsupported {
        /// The request or device.
        at: String,
        /// The field that asks for it.
        field: &'static str,
    },
    /// All matching devices are asked for, but not all devices are known.
    #[error("asks for all devices, but pool {pool} of driver {driver} is incomplete")]
    Incomplete {
        /// The driver.
        driver: String,
        /// Its pool, of which slices are missing.
        pool: String,
    },
    /// A pool's slices contradict each other.
    #[error("invalid resource pools were encountered: pool {pool} of driver {driver}: {reason}")]
    Invalid {
        /// The driver.
        driver: String,
        /// Its pool.
        pool: String,
        /// What is wrong.
        reason: String,
    },
    /// Capacity is asked for while `DRAConsumableCapacity` is off.
    #[error("request {request}: has capacity requests, but the DRAConsumableCapacity feature is disabled")]
    CapacityDisabled {
        /// The request, or `request/subrequest`.
        request: String,
    },
    /// An amount in a slice or claim is none.
    #[error(transparent)]
    Quantity(#[from] NotAQuantity),
    /// There are not enough devices that match and are free.
    #[error("cannot allocate all claims{0}")]
    NoDevices(Refusals),
}

/// What claims are allocated from, as seen from one node.
#[derive(Debug, Clone, Copy)]
pub struct Cluster<'a> {
    /// All published devices.
    pub slices: &'a [ResourceSlice],
    /// All classes.
    pub classes: &'a [DeviceClass],
    /// What other claims hold.
    pub in_use: &'a InUse,
    /// The node that must reach the devices.
    pub node: &'a str,
    /// What the scheduler can do.
    pub features: Features,
}

/// Picks devices for a claim.
pub fn allocate(claim: &ResourceClaim, cluster: Cluster<'_>) -> Result<AllocationResult, Unallocatable> {
    let Some(devices) = claim.spec.as_ref().and_then(|spec| spec.devices.as_ref()) else {
        return Ok(AllocationResult::default());
    };
    let Cluster { slices, classes, in_use, node, features } = cluster;
    let requests = devices.requests.iter().flatten().map(|request| ask::asks(request, classes, features));
    let requests = requests.collect::<Result<Vec<_>, _>>()?;
    let constraints = devices.constraints.as_deref().unwrap_or_default();
    constraint::check(constraints)?;
    let reachable = pool::reachable(slices, node, features, in_use);
    let room = Room { reachable: &reachable, in_use, features };
    let chosen = Search::new(&requests, constraints, room).run()?;
    Ok(outcome::allocation(devices, chosen, node))
}
