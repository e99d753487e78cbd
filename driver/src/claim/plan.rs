//! What an allocated claim gets on this node. Pure: allocation, parameters, inventory and policy in, devices to hold out.
use std::collections::BTreeMap;

use aliquot_model::{Binding, DeviceName, Gpu, GpuUuid, Inventory, Memory, Part, Vfio};
use aliquot_params::{
    Faults, TimeSlice,
    policy::{Policy, Shares},
};
use dra_plugin::{AllocatedClaim, ConfigSource, DeviceResult};

use super::{
    record::{Held, Passed, Room, Share, Slice},
    settings,
};
use crate::offer;

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
        "device {device} was allocated twice in this claim, to requests {first} and {second}, but has room for one holder; delete the claim (or its pod) to have it allocated anew"
    )]
    Twice {
        /// In the allocation.
        device: DeviceName,
        /// In the allocation.
        first: String,
        /// In the allocation.
        second: String,
    },
    /// One claim got a GPU in two forms.
    #[error(
        "{first} and {second} were both allocated to this claim, but they are one GPU, which is whole, shared, or a virtual machine's; delete the claim (or its pod) to have it allocated anew"
    )]
    TwoForms {
        /// In the allocation.
        first: DeviceName,
        /// In the allocation.
        second: DeviceName,
    },
    /// One claim got more of a GPU than there is.
    #[error(
        "device {device} was allocated to this claim with {} shares and {} of memory, but it offers {} shares and {}; delete the claim (or its pod) to have it allocated anew",
        taken.shares, taken.memory, offered.shares, offered.memory
    )]
    TooMuch {
        /// In the allocation.
        device: DeviceName,
        /// By all requests of the claim together.
        taken: Room,
        /// All that there is.
        offered: Room,
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
    /// Parameters of a whole GPU for a share, or the other way round.
    #[error(
        "the parameters for {driver} in the {source_of} are a {kind}, but request {request} got {device}, which takes a {needed}"
    )]
    WrongKind {
        /// Whose parameters they are.
        driver: String,
        /// Class or claim.
        source_of: ConfigSource,
        /// What was written.
        kind: &'static str,
        /// For which request.
        request: String,
        /// In the allocation.
        device: DeviceName,
        /// What can be written.
        needed: &'static str,
    },
    /// One claim wants two things of one GPU.
    #[error(
        "the claim asks for time slices {first} and {second} on one GPU, {gpu}, which can have one only; ask for one in its parameters"
    )]
    TwoTimeSlices {
        /// The GPU.
        gpu: GpuUuid,
        /// Of one of its requests.
        first: TimeSlice,
        /// Of another one.
        second: TimeSlice,
    },
    /// A claim without admin access got a device that is for administration.
    #[error(
        "device {device} is only for claims with adminAccess: true; ask for class gpu.aliquot.dev or share.gpu.aliquot.dev instead, or set adminAccess in a namespace with the label resource.kubernetes.io/admin-access: \"true\""
    )]
    AdminOnly {
        /// In the allocation.
        device: DeviceName,
    },
    /// What a virtual machine would get can't be given away.
    #[error(
        "device {device} can't be given to a virtual machine: {reason}; mend that on the node, or delete the claim (or its pod) to have it allocated anew"
    )]
    NotPassable {
        /// In the allocation.
        device: DeviceName,
        /// Why not.
        reason: String,
    },
    /// A claim for administration got what only one can have.
    #[error(
        "device {device} has one user, a virtual machine, and is nothing for adminAccess: leave that out, or ask for class admin.gpu.aliquot.dev"
    )]
    NoAdmin {
        /// In the allocation.
        device: DeviceName,
    },
    /// A CDI name can't be made of the claim's UID.
    #[error("{0}")]
    Name(#[from] cdi_spec::InvalidName),
}

/// Plans every device of the claim, in the order of the allocation.
pub(super) fn plan(
    claim: &AllocatedClaim,
    inventory: &Inventory,
    policy: &Policy,
    site: &Site,
) -> Result<Vec<Held>, Fault> {
    let mut first_of: BTreeMap<DeviceName, String> = BTreeMap::new();
    let mut slice_of: BTreeMap<GpuUuid, TimeSlice> = BTreeMap::new();
    let mut plan = Vec::with_capacity(claim.results.len());
    for result in &claim.results {
        let held = plan_device(claim, result, inventory, policy, site)?;
        if let Some(slice) = held.time_slice.filter(|slice| slice.asked)
            && let Some(first) = slice_of.insert(held.gpu.clone(), slice.interval)
            && first != slice.interval
        {
            return Err(Fault::TwoTimeSlices { gpu: held.gpu, first, second: slice.interval });
        }
        let exclusive = !held.admin_access && held.share.is_none_or(|share| share.alone);
        if exclusive && let Some(first) = first_of.insert(held.device.clone(), held.request.clone()) {
            return Err(Fault::Twice { device: held.device, first, second: held.request });
        }
        plan.push(held);
    }
    fits(&plan)?;
    Ok(plan)
}

/// A claim alone gets no more of a GPU than there is; what others hold is the records' business.
fn fits(plan: &[Held]) -> Result<(), Fault> {
    for (at, held) in plan.iter().enumerate().filter(|(_, held)| held.vfio.is_some()) {
        if let Some((_, other)) = plan.iter().enumerate().find(|(n, other)| *n != at && held.meets(other)) {
            return Err(Fault::TwoForms { first: held.device.clone(), second: other.device.clone() });
        }
    }
    let mut of_gpu: BTreeMap<&GpuUuid, (&Held, Room)> = BTreeMap::new();
    for held in plan.iter().filter(|held| !held.admin_access) {
        let (first, taken) = of_gpu.entry(&held.gpu).or_insert((held, Room::default()));
        if first.share.is_some() != held.share.is_some() {
            return Err(Fault::TwoForms { first: first.device.clone(), second: held.device.clone() });
        }
        let Some(share) = held.share else { continue };
        *taken = taken.plus(share.takes);
        if !taken.fits_into(share.of) {
            return Err(Fault::TooMuch { device: held.device.clone(), taken: *taken, offered: share.of });
        }
    }
    Ok(())
}

fn plan_device(
    claim: &AllocatedClaim,
    result: &DeviceResult,
    inventory: &Inventory,
    policy: &Policy,
    site: &Site,
) -> Result<Held, Fault> {
    if result.pool != site.pool {
        let (device, pool) = (result.device.clone(), result.pool.clone());
        return Err(Fault::OtherPool { device, pool, ours: site.pool.clone() });
    }
    let missing = || Fault::NoSuchDevice { device: result.device.clone() };
    let device: DeviceName = result.device.parse().map_err(|_| missing())?;
    if let Some(vfio) = inventory.passthrough(&device) {
        return plan_vfio(claim, result, device, vfio, site);
    }
    let (gpu, part) = inventory.device(&device).ok_or_else(missing)?;
    if part == Part::Admin && !result.admin_access {
        return Err(Fault::AdminOnly { device });
    }
    let is_share = matches!(part, Part::Shared | Part::Slot(_));
    let shares = is_share.then(|| shares_of(gpu, policy)).flatten();
    let wish = settings::time_slice(claim, result, &device, part, site)?;
    let by_policy = shares.map(|shares| shares.time_slice).filter(|interval| *interval != TimeSlice::Default);
    let by_policy = by_policy.map(|interval| Slice { interval, asked: false, required: false });
    Ok(Held {
        request: result.request.base().to_owned(),
        pool: result.pool.clone(),
        gpu: gpu.uuid.clone(),
        minor: Some(gpu.minor),
        admin_access: result.admin_access,
        share_id: result.share_id.clone(),
        share: shares.map(|shares| share(result, part, &shares, gpu)),
        // Whoever only looks at a GPU must not set it up (KEP-5018).
        time_slice: wish.or(by_policy).filter(|_| !result.admin_access),
        vfio: None,
        cdi_id: cdi_id(claim, &device, result.share_id.as_deref(), site)?,
        device,
    })
}

fn plan_vfio(
    claim: &AllocatedClaim,
    result: &DeviceResult,
    device: DeviceName,
    vfio: &Vfio,
    site: &Site,
) -> Result<Held, Fault> {
    if result.admin_access {
        return Err(Fault::NoAdmin { device });
    }
    match &vfio.binding {
        Binding::Bound => {}
        Binding::Unusable(reason) => return Err(Fault::NotPassable { device, reason: reason.clone() }),
        Binding::Switchable => {
            let reason = format!("no vfio driver of the kernel has the GPU at {}", vfio.gpu.pci);
            return Err(Fault::NotPassable { device, reason });
        }
    }
    Ok(Held {
        request: result.request.base().to_owned(),
        pool: result.pool.clone(),
        gpu: GpuUuid::of_place(vfio.gpu.pci),
        minor: None,
        admin_access: false,
        share_id: result.share_id.clone(),
        share: None,
        time_slice: None,
        vfio: Some(Passed {
            group: vfio.group,
            gpus: vfio.gpus().map(|gpu| gpu.pci).collect(),
            iommu: settings::iommu(claim, result, &device, site)?,
        }),
        cdi_id: cdi_id(claim, &device, result.share_id.as_deref(), site)?,
        device,
    })
}

/// How a GPU is shared; where the policy no longer says so, as it is without a policy.
fn shares_of(gpu: &Gpu, policy: &Policy) -> Option<Shares> {
    let of = |policy: &Policy| policy.for_gpu(gpu).ok()?.shares;
    of(policy).or_else(|| of(&Policy::default()))
}

fn share(result: &DeviceResult, part: Part, shares: &Shares, gpu: &Gpu) -> Share {
    let of = Room { shares: shares.count, memory: shares.memory };
    let (takes, alone) = match part {
        Part::Slot(_) => (Room { shares: 1, memory: offer::slot_memory(shares) }, true),
        // A scheduler that allocated it without an account of shares took it for a device like any other.
        _ if result.consumed_capacity.is_empty() => (of, true),
        _ => {
            let count = result.consumed("shares").map_or(1, |count| u32::try_from(count).unwrap_or(u32::MAX));
            let memory = Memory::from_bytes(result.consumed("memory").unwrap_or_default());
            (Room { shares: count, memory }, false)
        }
    };
    // Whoever only looks at a GPU has no part of its memory.
    let hard = gpu.hard_limits && !result.admin_access && takes.memory.bytes() > 0;
    Share { takes, of, alone, hard }
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

    use aliquot_model::{Gpu, Memory, testing};
    use aliquot_params::Iommu;
    use dra_plugin::{ClaimRef, OpaqueConfig, RequestName};
    use proptest::prelude::*;

    use super::*;

    fn gpu(bus: u8) -> Gpu {
        Gpu { minor: u32::from(bus) + 3, ..testing::gpu(bus) }
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
        plan(&claim(results), &inventory(), &Policy::default(), &site())
    }

    #[test]
    fn each_result_becomes_the_gpu_of_that_name_under_its_base_request() {
        let plan = planned(vec![result("big/first", "gpu-0000-02-00"), result("other", "gpu-0000-01-00")]).unwrap();
        let told: Vec<_> =
            plan.iter().map(|held| (held.request.as_str(), held.minor.unwrap(), held.cdi_id.as_str())).collect();
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
    fn what_is_for_administration_is_refused_to_others() {
        let admin = DeviceResult { admin_access: true, ..result("gpu", "gpu-0000-01-00-admin") };
        assert_eq!(planned(vec![admin.clone()]).unwrap()[0].minor, Some(4));
        let other = DeviceResult { admin_access: false, ..admin };
        assert!(matches!(planned(vec![other]), Err(Fault::AdminOnly { .. })));
    }

    fn machine(result: DeviceResult, vfio: Vec<Vfio>) -> Result<Vec<Held>, Fault> {
        plan(&claim(vec![result]), &inventory().with_vfio(vfio), &Policy::default(), &site())
    }

    #[test]
    fn a_virtual_machine_gets_all_gpus_of_the_group_and_no_node_of_nvidias_driver() {
        let mut vfio = testing::vfio(0x41);
        vfio.more.push(testing::vfio_gpu(0x42, "vfio-pci"));
        let plan = machine(result("gpu", "gpu-0000-41-00-vfio"), vec![vfio]).unwrap();
        let passed = plan[0].vfio.as_ref().unwrap();
        assert_eq!((passed.group.0, passed.gpus.len(), passed.iommu), (0x41, 2, Iommu::default()));
        assert_eq!((plan[0].minor, plan[0].gpu.as_str()), (None, "GPU-pci-0000-41-00-0"));
    }

    #[test]
    fn what_can_not_be_given_to_a_virtual_machine_says_why() {
        let unusable = Vfio { binding: Binding::Unusable("device 0000:42:00.0 is used".into()), ..testing::vfio(0x41) };
        let error = machine(result("gpu", "gpu-0000-41-00-vfio"), vec![unusable]).unwrap_err().to_string();
        assert!(error.contains("gpu-0000-41-00-vfio") && error.contains("0000:42:00.0 is used"), "{error}");
        let switchable = Vfio { binding: Binding::Switchable, ..testing::vfio(0x41) };
        let error = machine(result("gpu", "gpu-0000-41-00-vfio"), vec![switchable]).unwrap_err().to_string();
        assert!(error.contains("no vfio driver"), "{error}");
        let admin = DeviceResult { admin_access: true, ..result("gpu", "gpu-0000-41-00-vfio") };
        assert!(matches!(machine(admin, vec![testing::vfio(0x41)]), Err(Fault::NoAdmin { .. })));
        let other = result("gpu", "gpu-0000-42-00-vfio");
        assert!(matches!(machine(other, vec![testing::vfio(0x41)]), Err(Fault::NoSuchDevice { .. })));
    }

    #[test]
    fn one_gpu_for_a_virtual_machine_and_otherwise_is_refused() {
        // A slice from before the GPU was bound to another driver can still be in a scheduler's mind.
        let mut vfio = testing::vfio(0x41);
        vfio.more.push(testing::vfio_gpu(2, "vfio-pci"));
        let results = vec![result("vm", "gpu-0000-41-00-vfio"), result("gpu", "gpu-0000-02-00-shared")];
        let inventory = inventory().with_vfio(vec![vfio]);
        let planned = plan(&claim(results), &inventory, &Policy::default(), &site());
        assert!(matches!(planned, Err(Fault::TwoForms { .. })), "{planned:?}");
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
        assert!(plan(&claim, &inventory(), &Policy::default(), &site()).is_ok());
        claim.configs[0].requests = vec!["a".into()];
        let error = plan(&claim, &inventory(), &Policy::default(), &site()).unwrap_err().to_string();
        assert!(error.contains("ResourceClaim") && error.contains("mode is no field"), "{error}");
    }

    fn share(request: &str, device: &str, id: &str, shares: &str, memory: &str) -> DeviceResult {
        let consumed = [("shares".to_owned(), shares.to_owned()), ("memory".to_owned(), memory.to_owned())];
        DeviceResult { share_id: Some(id.into()), consumed_capacity: consumed.into(), ..result(request, device) }
    }

    fn configured(results: Vec<DeviceResult>, configs: &[(ConfigSource, &[&str], &str, &str)]) -> AllocatedClaim {
        let mut claim = claim(results);
        let config = |(source, requests, kind, interval): &(ConfigSource, &[&str], &str, &str)| OpaqueConfig {
            source: *source,
            requests: requests.iter().map(|request| (*request).to_owned()).collect(),
            parameters: serde_json::json!({"apiVersion": "gpu.aliquot.dev/v1alpha1", "kind": kind,
                "sharing": {"strategy": "TimeSlicing", "timeSlicingConfig": {"interval": interval}}}),
        };
        claim.configs = configs.iter().map(config).collect();
        claim
    }

    fn intervals(claim: &AllocatedClaim) -> Vec<Option<TimeSlice>> {
        let plan = plan(claim, &inventory(), &Policy::default(), &site()).unwrap();
        plan.iter().map(|held| held.time_slice.map(|slice| slice.interval)).collect()
    }

    #[test]
    fn several_shares_of_one_gpu_are_each_their_own_device() {
        let device = "gpu-0000-01-00-shared";
        let plan = planned(vec![share("a", device, "s1", "1", "8Gi"), share("b", device, "s2", "2", "21474836480")]);
        let plan = plan.unwrap();
        let told: Vec<_> = plan.iter().map(|held| (held.cdi_id.as_str(), held.share.unwrap().takes)).collect();
        let room = |shares, gib: u64| Room { shares, memory: Memory::from_bytes(gib << 30) };
        assert_eq!(
            told,
            [
                ("gpu.example.com/claim=u1-gpu-0000-01-00-shared-s1", room(1, 8)),
                ("gpu.example.com/claim=u1-gpu-0000-01-00-shared-s2", room(2, 20)),
            ]
        );
        assert!(plan.iter().all(|held| held.gpu == gpu(1).uuid && held.share.unwrap().of == room(10, 80)));
    }

    #[test]
    fn a_share_of_a_gpu_that_can_limit_memory_is_limited() {
        let hard = |results: Vec<DeviceResult>| {
            let inventory = Inventory::new(vec![Gpu { hard_limits: true, ..gpu(1) }, gpu(2)], vec![]);
            let plan = plan(&claim(results), &inventory, &Policy::default(), &site()).unwrap();
            plan.iter().map(|held| held.hard().map(Memory::bytes)).collect::<Vec<_>>()
        };
        let part = |device: &str| share("gpu", device, "s1", "1", "8Gi");
        let admin = DeviceResult { admin_access: true, ..part("gpu-0000-01-00-shared") };
        assert_eq!(
            hard(vec![part("gpu-0000-01-00-shared"), part("gpu-0000-02-00-shared"), admin]),
            [Some(8 << 30), None, None]
        );
        assert_eq!(hard(vec![result("gpu", "gpu-0000-01-00-share-3")]), [Some(8 << 30)]);
        assert_eq!(hard(vec![result("gpu", "gpu-0000-01-00")]), [None]);
    }

    #[test]
    fn a_fixed_share_and_one_without_an_account_have_one_holder() {
        let slot = &planned(vec![result("gpu", "gpu-0000-01-00-share-3")]).unwrap()[0];
        let share = slot.share.unwrap();
        assert_eq!((share.alone, share.takes.shares, share.takes.memory.bytes()), (true, 1, 8 << 30));
        let all = planned(vec![result("gpu", "gpu-0000-01-00-shared")]).unwrap()[0].share.unwrap();
        assert_eq!((all.alone, all.takes), (true, all.of));
    }

    #[test]
    fn the_claim_comes_before_the_class_and_its_request_before_all() {
        use ConfigSource::{Claim, Class};
        let gpus = || vec![result("a", "gpu-0000-01-00"), result("b", "gpu-0000-02-00")];
        let all: &[&str] = &[];
        let config = configured(gpus(), &[(Class, &["a"], "GpuConfig", "Long"), (Claim, all, "GpuConfig", "Short")]);
        assert_eq!(intervals(&config), [Some(TimeSlice::Short), Some(TimeSlice::Short)]);
        let config = configured(gpus(), &[(Claim, &["a"], "GpuConfig", "Long"), (Claim, all, "GpuConfig", "Short")]);
        assert_eq!(intervals(&config), [Some(TimeSlice::Long), Some(TimeSlice::Short)]);
    }

    #[test]
    fn parameters_of_the_other_kind_are_passed_over_unless_they_name_the_request() {
        use ConfigSource::Claim;
        let share = || share("gpu/part", "gpu-0000-01-00-shared", "s1", "1", "8Gi");
        for requests in [&[][..], &["gpu"]] {
            let config = configured(vec![share()], &[(Claim, requests, "GpuConfig", "Short")]);
            assert_eq!(intervals(&config), [None]);
        }
        let config = configured(vec![share()], &[(Claim, &["gpu/part"], "GpuConfig", "Short")]);
        let error = plan(&config, &inventory(), &Policy::default(), &site()).unwrap_err().to_string();
        assert!(
            error.contains("a GpuConfig, but request gpu/part") && error.contains("takes a ShareConfig"),
            "{error}"
        );
    }

    #[test]
    fn one_claim_cannot_want_two_time_slices_of_one_gpu() {
        use ConfigSource::Claim;
        let device = "gpu-0000-01-00-shared";
        let shares = vec![share("a", device, "s1", "1", "8Gi"), share("b", device, "s2", "1", "8Gi")];
        let config =
            configured(shares, &[(Claim, &["a"], "ShareConfig", "Short"), (Claim, &["b"], "ShareConfig", "Long")]);
        let fault = plan(&config, &inventory(), &Policy::default(), &site()).unwrap_err();
        assert!(matches!(fault, Fault::TwoTimeSlices { .. }), "{fault}");
    }

    #[test]
    fn whoever_only_looks_at_a_gpu_sets_nothing() {
        let admin = DeviceResult { admin_access: true, ..result("a", "gpu-0000-01-00") };
        let config = configured(vec![admin], &[(ConfigSource::Claim, &[], "GpuConfig", "Short")]);
        assert_eq!(intervals(&config), [None]);
    }

    proptest! {
        #[test]
        fn a_plan_holds_exactly_what_was_allocated(buses in proptest::collection::btree_set(0u8..8, 1..8)) {
            let results = buses.iter().map(|bus| result("gpu", &format!("gpu-0000-{bus:02x}-00"))).collect();
            let plan = planned(results).unwrap();
            let minors: Vec<u32> = plan.iter().filter_map(|held| held.minor).collect();
            prop_assert_eq!(minors, buses.iter().map(|bus| u32::from(*bus) + 3).collect::<Vec<_>>());
        }
    }
}
