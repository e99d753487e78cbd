//! What an allocated claim gets on this node. Pure: allocation, parameters and inventory in, devices to hold out.
use std::collections::BTreeMap;

use aliquot_model::{DeviceName, Inventory};
use aliquot_params::Faults;
use dra_plugin::{AllocatedClaim, ConfigSource, DeviceResult};

use super::record::Held;

/// Whose claims are planned: names that are the same for the life of the process.
#[derive(Debug, Clone)]
pub struct Site {
    /// The node's pool.
    pub pool: String,
    /// `vendor/class` of the devices in claims' CDI specs.
    pub cdi_kind: cdi_spec::Kind,
}

/// Why an allocation can't be had on this node. The text ends in an event on the pod.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// The scheduler named another pool.
    #[error(
        "device {device} was allocated from pool {pool}, but this node serves pool {ours}: delete the claim (or its pod) to have it allocated anew"
    )]
    OtherPool {
        /// In the allocation.
        device: String,
        /// In the allocation.
        pool: String,
        /// This node's.
        ours: String,
    },
    /// The GPU isn't there (any more).
    #[error(
        "device {device} is not on this node: the GPU was removed or no longer answers (see the node's events); delete the claim (or its pod) to have it allocated anew"
    )]
    NoSuchDevice {
        /// In the allocation.
        device: String,
    },
    /// One claim got one device twice.
    #[error(
        "device {device} was allocated twice in this claim, to requests {first} and {second}, but a whole GPU has one holder"
    )]
    Twice {
        /// In the allocation.
        device: DeviceName,
        /// In the allocation.
        first: String,
        /// In the allocation.
        second: String,
    },
    /// Somebody's parameters are wrong.
    #[error("the parameters for {driver} in the {source_of} are wrong: {faults}")]
    Parameters {
        /// Whose parameters they are.
        driver: String,
        /// Class or claim.
        source_of: ConfigSource,
        /// All that is wrong.
        faults: Faults,
    },
    /// A CDI name can't be made of the claim's UID.
    #[error("{0}")]
    Name(#[from] cdi_spec::InvalidName),
}

/// Plans every device of the claim, in the order of the allocation.
pub(super) fn plan(claim: &AllocatedClaim, inventory: &Inventory, site: &Site) -> Result<Vec<Held>, Fault> {
    let mut first_of: BTreeMap<DeviceName, String> = BTreeMap::new();
    let mut plan = Vec::with_capacity(claim.results.len());
    for result in &claim.results {
        let held = plan_device(claim, result, inventory, site)?;
        let exclusive = !held.admin_access && held.share_id.is_none();
        if exclusive && let Some(first) = first_of.insert(held.device.clone(), held.request.clone()) {
            return Err(Fault::Twice { device: held.device, first, second: held.request });
        }
        plan.push(held);
    }
    Ok(plan)
}

fn plan_device(
    claim: &AllocatedClaim,
    result: &DeviceResult,
    inventory: &Inventory,
    site: &Site,
) -> Result<Held, Fault> {
    if result.pool != site.pool {
        let (device, pool) = (result.device.clone(), result.pool.clone());
        return Err(Fault::OtherPool { device, pool, ours: site.pool.clone() });
    }
    let missing = || Fault::NoSuchDevice { device: result.device.clone() };
    let device: DeviceName = result.device.parse().map_err(|_| missing())?;
    let gpu = inventory.whole(&device).ok_or_else(missing)?;
    // A whole GPU has no settings yet; decoding tells users of parameters that would do nothing.
    for config in claim.configs_for(result) {
        aliquot_params::decode(&config.parameters).map_err(|faults| Fault::Parameters {
            driver: site.cdi_kind.vendor().to_owned(),
            source_of: config.source,
            faults,
        })?;
    }
    Ok(Held {
        request: result.request.base().to_owned(),
        pool: result.pool.clone(),
        gpu: gpu.uuid.clone(),
        minor: gpu.minor,
        admin_access: result.admin_access,
        share_id: result.share_id.clone(),
        cdi_id: cdi_id(claim, &device, result.share_id.as_deref(), site)?,
        device,
    })
}

/// Unique on the node, also where one claim gets several shares of a device.
fn cdi_id(claim: &AllocatedClaim, device: &DeviceName, share: Option<&str>, site: &Site) -> Result<String, Fault> {
    let share = share.map(|share| format!("-{share}")).unwrap_or_default();
    let name = cdi_spec::DeviceName::new(format!("{}-{device}{share}", claim.claim.uid()))?;
    Ok(site.cdi_kind.qualified(&name))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use aliquot_model::{ComputeCapability, Gpu, Memory};
    use dra_plugin::{ClaimRef, OpaqueConfig, RequestName};
    use proptest::prelude::*;

    use super::*;

    fn gpu(bus: u8) -> Gpu {
        Gpu {
            uuid: format!("GPU-{bus:08x}-6dfb-38a3-2f06-448166423d32").parse().unwrap(),
            pci: format!("0000:{bus:02x}:00.0").parse().unwrap(),
            index: bus.into(),
            minor: u32::from(bus) + 3,
            product_name: "NVIDIA H100 80GB HBM3".into(),
            brand: "Nvidia".into(),
            architecture: "Hopper".into(),
            compute_capability: ComputeCapability { major: 9, minor: 0 },
            memory: Memory::from_bytes(80 << 30),
            driver_version: "580.65.06".into(),
            cuda_driver_version: "13.0".into(),
            pcie_root: None,
            numa_node: None,
        }
    }

    fn site() -> Site {
        Site {
            pool: "gpu.example.com/node1".into(),
            cdi_kind: cdi_spec::Kind::new("gpu.example.com", "claim").unwrap(),
        }
    }

    fn inventory() -> Inventory {
        Inventory::new((0..8).map(gpu).collect(), vec![])
    }

    fn result(request: &str, device: &str) -> DeviceResult {
        DeviceResult {
            request: RequestName::parse(request),
            pool: site().pool,
            device: device.into(),
            admin_access: false,
            share_id: None,
            consumed_capacity: BTreeMap::new(),
        }
    }

    fn claim(results: Vec<DeviceResult>) -> AllocatedClaim {
        let claim = ClaimRef::new("default", "claim", "u1").unwrap();
        AllocatedClaim { claim, results, configs: vec![], reserved_for: vec![] }
    }

    fn planned(results: Vec<DeviceResult>) -> Result<Vec<Held>, Fault> {
        plan(&claim(results), &inventory(), &site())
    }

    #[test]
    fn each_result_becomes_the_gpu_of_that_name_under_its_base_request() {
        let plan = planned(vec![result("big/first", "gpu-0000-02-00"), result("other", "gpu-0000-01-00")]).unwrap();
        let told: Vec<_> = plan.iter().map(|held| (held.request.as_str(), held.minor, held.cdi_id.as_str())).collect();
        assert_eq!(
            told,
            [
                ("big", 5, "gpu.example.com/claim=u1-gpu-0000-02-00"),
                ("other", 4, "gpu.example.com/claim=u1-gpu-0000-01-00")
            ]
        );
    }

    #[test]
    fn a_device_that_is_not_there_says_so_and_what_to_do() {
        let error = planned(vec![result("gpu", "gpu-0000-77-00")]).unwrap_err().to_string();
        assert!(error.contains("gpu-0000-77-00 is not on this node") && error.contains("delete the claim"), "{error}");
        assert!(matches!(planned(vec![result("gpu", "../../etc")]), Err(Fault::NoSuchDevice { .. })));
    }

    #[test]
    fn a_pool_of_another_node_is_refused() {
        let elsewhere = DeviceResult { pool: "gpu.example.com/node2".into(), ..result("gpu", "gpu-0000-01-00") };
        assert!(matches!(planned(vec![elsewhere]), Err(Fault::OtherPool { .. })));
    }

    #[test]
    fn one_device_twice_is_refused_unless_it_is_for_administration() {
        let twice = vec![result("a", "gpu-0000-01-00"), result("b", "gpu-0000-01-00")];
        assert!(matches!(planned(twice), Err(Fault::Twice { .. })));
        let admin = DeviceResult { admin_access: true, ..result("b", "gpu-0000-01-00") };
        assert_eq!(planned(vec![result("a", "gpu-0000-01-00"), admin]).unwrap().len(), 2);
    }

    #[test]
    fn parameters_count_only_for_the_requests_that_they_name() {
        let mut claim = claim(vec![result("a", "gpu-0000-01-00")]);
        let parameters =
            serde_json::json!({"apiVersion": "gpu.aliquot.dev/v1alpha1", "kind": "GpuConfig", "mode": "fast"});
        claim.configs = vec![OpaqueConfig { source: ConfigSource::Claim, requests: vec!["b".into()], parameters }];
        assert!(plan(&claim, &inventory(), &site()).is_ok());
        claim.configs[0].requests = vec!["a".into()];
        let error = plan(&claim, &inventory(), &site()).unwrap_err().to_string();
        assert!(error.contains("ResourceClaim") && error.contains("mode is no field"), "{error}");
    }

    proptest! {
        #[test]
        fn a_plan_holds_exactly_what_was_allocated(buses in proptest::collection::btree_set(0u8..8, 1..8)) {
            let results = buses.iter().map(|bus| result("gpu", &format!("gpu-0000-{bus:02x}-00"))).collect();
            let plan = planned(results).unwrap();
            let minors: Vec<u32> = plan.iter().map(|held| held.minor).collect();
            prop_assert_eq!(minors, buses.iter().map(|bus| u32::from(*bus) + 3).collect::<Vec<_>>());
        }
    }
}
