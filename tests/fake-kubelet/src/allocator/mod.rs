//! A stand-in for the scheduler: picks devices for claims as `k8s.io/dynamic-resource-allocation/structured` does.
//!
//! [`allocate`] decides, [`Scheduler`] reads and writes. Not modelled, and an error where it would matter: devices that
//! consume counters or can be allocated several times, requests for capacity, derived attributes, binding conditions and
//! attributes with lists. Slices with a node selector are out of reach of every node.
mod ask;
mod identity;
mod pool;
mod quantity;
mod scheduler;
mod search;
mod selector;

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod tests;

use std::fmt;

use ask::Ask;
use k8s_openapi::api::{
    core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm},
    resource::v1::{
        AllocationResult, DeviceAllocationConfiguration, DeviceAllocationResult, DeviceClaim, DeviceClass,
        DeviceRequestAllocationResult, ResourceClaim, ResourceSlice,
    },
};
pub use scheduler::{ScheduleError, Scheduler};
use search::{Choice, Search};
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
    /// There are not enough devices that match and are free.
    #[error("cannot allocate all devices")]
    NoDevices,
}

/// Picks devices of one node for a claim, given the devices that are in use by other claims, without those that are only
/// allocated for administrators.
pub fn allocate(
    claim: &ResourceClaim,
    slices: &[ResourceSlice],
    classes: &[DeviceClass],
    in_use: &[DeviceId],
    node: &str,
) -> Result<AllocationResult, Unallocatable> {
    let Some(devices) = claim.spec.as_ref().and_then(|spec| spec.devices.as_ref()) else {
        return Ok(AllocationResult::default());
    };
    let requests = devices.requests.iter().flatten().map(|request| ask::asks(request, classes));
    let requests = requests.collect::<Result<Vec<_>, _>>()?;
    let reachable = pool::reachable(slices, node);
    let constraints = devices.constraints.as_deref().unwrap_or_default();
    let chosen = Search::new(&requests, &reachable, constraints, in_use).run()?.ok_or(Unallocatable::NoDevices)?;
    let local = chosen.iter().any(|choice| choice.candidate.local);
    Ok(AllocationResult {
        devices: Some(DeviceAllocationResult {
            config: Some(configurations(devices, &chosen)).filter(|config| !config.is_empty()),
            results: Some(chosen.iter().map(result).collect()),
        }),
        node_selector: local.then(|| only(node)),
        ..AllocationResult::default()
    })
}

fn result(choice: &Choice<'_>) -> DeviceRequestAllocationResult {
    let (ask, id) = (choice.ask, choice.candidate.id.clone());
    DeviceRequestAllocationResult {
        request: ask.name.clone(),
        driver: id.driver,
        pool: id.pool,
        device: id.device,
        admin_access: ask.admin.then_some(true),
        tolerations: Some(ask.tolerations.to_vec()).filter(|tolerations| !tolerations.is_empty()),
        ..DeviceRequestAllocationResult::default()
    }
}

/// First what the classes say, once per class with the requests that use it, then what the claim says.
fn configurations(devices: &DeviceClaim, chosen: &[Choice<'_>]) -> Vec<DeviceAllocationConfiguration> {
    let mut asks = Vec::<&Ask<'_>>::new();
    for choice in chosen {
        if asks.iter().all(|ask| ask.name != choice.ask.name) {
            asks.push(choice.ask);
        }
    }
    let class_of = |ask: &Ask<'_>| ask.class.metadata.name.clone();
    let mut configurations = Vec::new();
    for (at, ask) in asks.iter().enumerate() {
        if asks.iter().take(at).any(|earlier| class_of(earlier) == class_of(ask)) {
            continue;
        }
        let same = asks.iter().filter(|other| class_of(other) == class_of(ask));
        let names: Vec<_> = same.map(|ask| ask.name.clone()).collect();
        let of_class = ask.class.spec.iter().flat_map(|spec| spec.config.iter().flatten());
        let of_class = of_class.map(|config| DeviceAllocationConfiguration {
            opaque: config.opaque.clone(),
            requests: Some(names.clone()),
            source: "FromClass".to_owned(),
        });
        configurations.extend(of_class);
    }
    let of_claim = devices.config.iter().flatten();
    let of_claim = of_claim.filter(|config| asks.iter().any(|ask| ask.named_in(config.requests.as_ref())));
    configurations.extend(of_claim.map(|config| DeviceAllocationConfiguration {
        opaque: config.opaque.clone(),
        requests: config.requests.clone(),
        source: "FromClaim".to_owned(),
    }));
    configurations
}

fn only(node: &str) -> NodeSelector {
    let name = NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let term = NodeSelectorTerm { match_fields: Some(vec![name]), ..NodeSelectorTerm::default() };
    NodeSelector { node_selector_terms: vec![term] }
}
