//! What follows from allocations, word by word.
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
    Site { pool: "gpu.example.com/node1".into(), cdi_kind: cdi_spec::Kind::new("gpu.example.com", "claim").unwrap() }
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
    let parameters = serde_json::json!({"apiVersion": "gpu.aliquot.dev/v1alpha1", "kind": "GpuConfig", "mode": "fast"});
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
    assert!(error.contains("a GpuConfig, but request gpu/part") && error.contains("takes a ShareConfig"), "{error}");
}

#[test]
fn nvidias_parameters_of_a_gpu_count_for_all_of_it_and_for_a_share() {
    let share = share("part", "gpu-0000-01-00-shared", "s1", "1", "8Gi");
    let mut config =
        configured(vec![share, result("whole", "gpu-0000-02-00")], &[(ConfigSource::Claim, &[], "GpuConfig", "Short")]);
    assert_eq!(intervals(&config), [None, Some(TimeSlice::Short)]);
    config.configs[0].parameters["apiVersion"] = "resource.nvidia.com/v1beta1".into();
    assert_eq!(intervals(&config), [Some(TimeSlice::Short); 2]);
}

#[test]
fn one_claim_cannot_want_two_time_slices_of_one_gpu() {
    use ConfigSource::Claim;
    let device = "gpu-0000-01-00-shared";
    let shares = vec![share("a", device, "s1", "1", "8Gi"), share("b", device, "s2", "1", "8Gi")];
    let config = configured(shares, &[(Claim, &["a"], "ShareConfig", "Short"), (Claim, &["b"], "ShareConfig", "Long")]);
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
