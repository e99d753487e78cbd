use aliquot_model::{BrokenGpu, Memory, testing};
use dra_plugin::HealthStatus;
use proptest::prelude::*;

use super::*;

pub(crate) fn gpu(bus: u8) -> Gpu {
    Gpu { memory: Memory::from_bytes(81_559 << 20), ..testing::gpu(bus) }
}

fn inventory(count: u8) -> Inventory {
    Inventory::new((0..count).map(gpu).collect(), vec![])
}

fn policy(rules: &str) -> Policy {
    let text = format!("apiVersion: gpu.aliquot.dev/v1alpha1\nkind: Policy\nrules:\n{rules}");
    Policy::parse(text.as_bytes()).unwrap()
}

/// Of shares of the default size.
pub(crate) fn holding(bus: u8, part: Part, shares: u32) -> Holding {
    let memory = Memory::from_bytes(u64::from(shares) * (8155 << 20));
    Holding { gpu: gpu(bus).uuid, device: DeviceName::of(gpu(bus).pci, part), shares, memory }
}

/// Without those for administration, which are there for every GPU that is offered or held.
fn device_names(offered: &Offered) -> Vec<String> {
    let names = offered.devices.iter().map(|device| device.name.clone());
    names.filter(|name| !name.ends_with("-admin")).collect()
}

#[test]
fn the_pool_is_named_after_driver_and_node() {
    let (driver, node) = (DriverName::new("gpu.example.com").unwrap(), NodeName::new("node-1.example").unwrap());
    assert_eq!(pool_name(&driver, &node).unwrap().as_str(), "gpu.example.com/node-1.example");
}

#[test]
fn a_gpu_is_whole_and_shared_at_once_and_both_draw_on_one_counter() {
    let offered = offered(&inventory(1), &Policy::default(), &[], Layout::Counters);
    let devices = serde_json::to_value(&offered.devices).unwrap();
    assert_eq!(
        serde_json::to_value(&offered.counters).unwrap(),
        serde_json::json!([{"name": "gpu-0000-00-00", "counters": {"whole": {"value": "1"}}}])
    );
    let consumes = serde_json::json!([{"counterSet": "gpu-0000-00-00", "counters": {"whole": {"value": "1"}}}]);
    assert_eq!(devices[0]["name"], "gpu-0000-00-00-shared");
    assert_eq!(devices[0]["allowMultipleAllocations"], true);
    assert_eq!(devices[0]["consumesCounters"], consumes);
    assert_eq!(
        devices[0]["capacity"],
        serde_json::json!({
            "memory": {"value": "81559Mi", "requestPolicy": {"default": "8155Mi",
                "validRange": {"min": "1Mi", "max": "81559Mi", "step": "1Mi"}}},
            "shares": {"value": "10", "requestPolicy": {"default": "1",
                "validRange": {"min": "1", "max": "10", "step": "1"}}},
        })
    );
    assert_eq!((&devices[1]["name"], &devices[1]["consumesCounters"]), (&"gpu-0000-00-00".into(), &consumes));
    assert_eq!(devices[1]["capacity"], serde_json::json!({"memory": {"value": "81559Mi"}}));
}

#[test]
fn administrators_reach_a_gpu_whatever_is_held_of_it_unless_it_is_withheld() {
    let admins = |policy: &Policy, held: &[Holding]| {
        let offered = offered(&inventory(1), policy, held, Layout::Counters);
        let admins: Vec<Device> =
            offered.devices.into_iter().filter(|device| device.name.ends_with("-admin")).collect();
        assert!(admins.iter().all(|device| device.consumes_counters.is_none() && kind(device) == Some("admin")));
        admins.len()
    };
    assert_eq!(admins(&Policy::default(), &[]), 1);
    assert_eq!(admins(&policy("- offer: []\n"), &[]), 0);
    assert_eq!(admins(&policy("- offer: []\n"), &[holding(0, Part::Whole, 0)]), 1);
}

#[test]
fn shares_are_tried_from_one_end_and_whole_gpus_from_the_other() {
    let offered = offered(&inventory(2), &Policy::default(), &[], Layout::Counters);
    let expected = ["gpu-0000-00-00-shared", "gpu-0000-01-00-shared", "gpu-0000-01-00", "gpu-0000-00-00"];
    assert_eq!(device_names(&offered), expected);
}

#[test]
fn a_gpu_offered_in_one_form_only_needs_no_counters() {
    let whole = offered(&inventory(1), &policy("- offer: [whole]\n"), &[], Layout::Counters);
    assert!(!whole.needs_counters() && whole.devices[0].consumes_counters.is_none());
    let shared = offered(&inventory(1), &policy("- offer: [shares]\n"), &[], Layout::Counters);
    assert!(shared.needs_counters() && shared.counters.is_empty());
    let none = offered(&inventory(1), &policy("- offer: []\n"), &[], Layout::Counters);
    assert_eq!(none, Offered::default());
}

#[test]
fn without_counters_the_policy_says_whole_or_how_many_shares() {
    let fixed = |rules: &str| device_names(&offered(&inventory(1), &policy(rules), &[], Layout::Fixed));
    assert_eq!(fixed("- {}\n"), ["gpu-0000-00-00"]);
    assert_eq!(fixed("- offer: [whole]\n  fallback: shares\n"), ["gpu-0000-00-00"]);
    let shares = fixed("- fallback: shares\n  shares: {count: 12}\n");
    assert_eq!(
        (shares.len(), shares[0].as_str(), shares[10].as_str()),
        (12, "gpu-0000-00-00-share-0", "gpu-0000-00-00-share-10")
    );
    assert_eq!(fixed("- offer: [shares]\n  shares: {count: 2}\n").len(), 2);
    let offered = offered(&inventory(1), &policy("- offer: [shares]\n"), &[], Layout::Fixed);
    assert!(!offered.needs_counters());
    assert_eq!(offered.devices[0].capacity.as_ref().unwrap()["memory"].value.0, "8155Mi");
}

#[test]
fn a_gpu_that_the_policy_does_not_fit_is_not_offered_and_told() {
    let offered = offered(
        &inventory(2),
        &policy("- match: {pciAddress: '0000:01:00.0'}\n  shares: {memory: {default: 100Gi}}\n"),
        &[],
        Layout::Counters,
    );
    assert_eq!(device_names(&offered), ["gpu-0000-00-00-shared", "gpu-0000-00-00"]);
    assert_eq!(offered.faults.len(), 1);
}

#[test]
fn nothing_is_offered_of_a_gpu_that_is_held_in_a_form_that_is_no_longer_offered() {
    let whole_only = policy("- offer: [whole]\n");
    let held = [holding(0, Part::Shared, 3)];
    let during = offered(&inventory(2), &whole_only, &held, Layout::Counters);
    assert_eq!(device_names(&during), ["gpu-0000-01-00"]);
    assert_eq!(during.waiting, [gpu(0).uuid]);
    let after = offered(&inventory(2), &whole_only, &[], Layout::Counters);
    assert_eq!(device_names(&after), ["gpu-0000-01-00", "gpu-0000-00-00"]);
    assert!(after.waiting.is_empty());
    // From whole to shares, and from fixed shares to both.
    let shares_only = policy("- offer: [shares]\n");
    let none = |policy: &Policy, part, layout| {
        let during = offered(&inventory(1), policy, &[holding(0, part, 1)], layout);
        assert_eq!(device_names(&during), [""; 0]);
        assert_eq!((during.devices.len(), during.waiting.len()), (1, 1), "administrators reach it");
    };
    none(&shares_only, Part::Whole, Layout::Counters);
    none(&Policy::default(), Part::Slot(7), Layout::Counters);
    // Gates that are switched off.
    none(&Policy::default(), Part::Shared, Layout::Fixed);
    // Fewer fixed shares.
    none(&policy("- offer: [shares]\n  shares: {count: 2, memory: {default: 8155Mi}}\n"), Part::Slot(5), Layout::Fixed);
}

#[test]
fn what_is_held_of_fixed_shares_keeps_its_size_or_nothing_is_offered() {
    let under = |rules: &str, held: &[Holding]| {
        device_names(&offered(&inventory(1), &policy(rules), held, Layout::Fixed)).len()
    };
    let held = [0, 1, 2, 3].map(|number| holding(0, Part::Slot(number), 1));
    assert_eq!(under("- offer: [shares]\n", &held), 10);
    assert_eq!(under("- offer: [shares]\n  shares: {count: 6, memory: {default: 8155Mi}}\n", &held), 6);
    // Four of a tenth each, and then 16 of a sixteenth, or four of a quarter.
    assert_eq!(under("- offer: [shares]\n  shares: {count: 16}\n", &held), 0);
    assert_eq!(under("- offer: [shares]\n  shares: {count: 4}\n", &held), 0);
    assert_eq!(under("- offer: [shares]\n  shares: {count: 16}\n", &[]), 16);
}

#[test]
fn spreading_puts_the_gpu_with_the_fewest_shares_first() {
    let held = [holding(0, Part::Shared, 2), holding(1, Part::Shared, 1)];
    let spread =
        offered(&inventory(3), &policy("- offer: [shares]\n  shares: {order: spread}\n"), &held, Layout::Counters);
    assert_eq!(device_names(&spread), ["gpu-0000-02-00-shared", "gpu-0000-01-00-shared", "gpu-0000-00-00-shared"]);
    let pack = offered(&inventory(3), &Policy::default(), &held, Layout::Counters);
    assert_eq!(device_names(&pack)[0], "gpu-0000-00-00-shared");
}

#[test]
fn a_gpu_that_does_not_answer_is_not_offered_and_unhealthy() {
    let broken = |index, pci: Option<&str>| BrokenGpu {
        index,
        pci: pci.map(|pci| pci.parse().unwrap()),
        reason: "it is lost".into(),
    };
    let inventory = Inventory::new(vec![], vec![broken(0, Some("0000:00:00.0")), broken(1, None)]);
    let offered = offered(&inventory, &Policy::default(), &[], Layout::Counters);
    assert!(offered.devices.is_empty());
    let held = [holding(0, Part::Shared, 1)];
    let health = health_of(&inventory, &offered, &held, &[]);
    let told: Vec<_> = health.iter().map(|health| (health.device.as_str(), health.status)).collect();
    assert_eq!(told, [("gpu-0000-00-00", HealthStatus::Unhealthy), ("gpu-0000-00-00-shared", HealthStatus::Unhealthy)]);
    assert_eq!(health[0].message, "it is lost");
}

fn health_of(
    inventory: &Inventory,
    offered: &Offered,
    held: &[Holding],
    ill: &[(u8, &str)],
) -> Vec<dra_plugin::DeviceHealth> {
    let ill = ill.iter().map(|(bus, why)| (gpu(*bus).uuid, (*why).to_owned())).collect();
    health(inventory, offered, held, &ill, &PoolName::new("p").unwrap(), std::time::SystemTime::UNIX_EPOCH)
}

#[test]
fn every_device_of_an_ill_gpu_says_why_and_those_of_others_are_well() {
    let inventory = inventory(2);
    let offered = offered(&inventory, &Policy::default(), &[], Layout::Counters);
    let health = health_of(&inventory, &offered, &[], &[(1, "it reported an error")]);
    assert_eq!(health.len(), 6);
    for health in health {
        let expected = if health.device.starts_with("gpu-0000-01-00") {
            (HealthStatus::Unhealthy, "it reported an error")
        } else {
            (HealthStatus::Healthy, "")
        };
        assert_eq!((health.status, health.message.as_str()), expected, "{}", health.device);
    }
}

fn with_vfio(bindings: &[Binding]) -> Inventory {
    let vfio = |(bus, binding): (u8, &Binding)| Vfio { binding: binding.clone(), ..testing::vfio(bus) };
    inventory(1).with_vfio((0x41..).zip(bindings).map(vfio).collect())
}

#[test]
fn what_a_vfio_driver_has_is_offered_by_itself_and_what_can_not_be_had_is_not() {
    let bindings = [Binding::Bound, Binding::Switchable, Binding::Unusable("x".into())];
    let offered = offered(&with_vfio(&bindings), &Policy::default(), &[], Layout::Fixed);
    assert_eq!(device_names(&offered), ["gpu-0000-41-00-vfio", "gpu-0000-00-00"]);
    assert!(!offered.needs_counters());
}

#[test]
fn a_rule_that_says_how_offers_it_for_virtual_machines_only_if_it_says_so() {
    let is_offered = |rules: &str, held: &[Holding]| {
        let offered = offered(&with_vfio(&[Binding::Bound]), &policy(rules), held, Layout::Counters);
        device_names(&offered).iter().any(|name| name.ends_with("-vfio"))
    };
    for rules in [
        "- offer: [vfio]\n",
        "- shares: {count: 4}\n",
        "- match: {uuid: GPU-1}\n  offer: []\n",
        "- match: {pciAddress: '0000:42:00.0'}\n  offer: []\n",
        "- match: {productName: 'GH100*'}\n  offer: [whole, vfio]\n- offer: []\n",
    ] {
        assert!(is_offered(rules, &[]), "{rules}");
    }
    for rules in ["- offer: [whole, shares]\n", "- offer: []\n", "- match: {pciAddress: '0000:41:00.0'}\n  offer: []\n"]
    {
        assert!(!is_offered(rules, &[]), "{rules}");
        let place = "0000:41:00.0".parse().unwrap();
        let device = DeviceName::of(place, Part::Vfio);
        let held = Holding { gpu: GpuUuid::of_place(place), device, shares: 0, memory: Memory::from_bytes(0) };
        assert!(is_offered(rules, &[held]), "{rules}: a claim holds it");
    }
}

const DYNAMIC: &str = "- offer: [whole, shares, vfio]\n  vfio: {binding: dynamic}\n";

/// Two GPUs that NVIDIA's driver has, in IOMMU groups of their own.
fn switchable() -> Inventory {
    inventory(2).with_vfio(vec![testing::switchable(0), testing::switchable(1)])
}

fn draws(offered: &Offered, device: &str) -> Vec<String> {
    let device = offered.devices.iter().find(|offered| offered.name == device).unwrap();
    let sets = device.consumes_counters.iter().flatten();
    sets.map(|consumed| consumed.counter_set.clone()).collect()
}

fn machine(bus: u8) -> Holding {
    let place = testing::gpu(bus).pci;
    let device = DeviceName::of(place, Part::Vfio);
    Holding { gpu: GpuUuid::of_place(place), device, shares: 0, memory: Memory::from_bytes(0) }
}

#[test]
fn a_gpu_that_may_be_taken_is_offered_in_every_form_on_one_counter() {
    let offered = offered(&switchable(), &policy(DYNAMIC), &[], Layout::Counters);
    for device in ["gpu-0000-01-00", "gpu-0000-01-00-shared", "gpu-0000-01-00-vfio"] {
        assert_eq!(draws(&offered, device), ["gpu-0000-01-00"], "{device}");
    }
    assert_eq!(offered.counters.len(), 2);
    let whole = super::offered(&switchable(), &policy(&DYNAMIC.replace("shares, ", "")), &[], Layout::Counters);
    assert_eq!(draws(&whole, "gpu-0000-00-00"), draws(&whole, "gpu-0000-00-00-vfio"));
    let without = super::offered(&switchable(), &policy("- offer: [whole, shares, vfio]\n"), &[], Layout::Counters);
    assert!(!device_names(&without).iter().any(|name| name.ends_with("-vfio")));
}

#[test]
fn a_group_of_two_gpus_draws_on_both() {
    let mut both = testing::switchable(0);
    both.more.push(testing::vfio_gpu(1, "nvidia"));
    let inventory = inventory(2).with_vfio(vec![both]);
    let offered = offered(&inventory, &policy(DYNAMIC), &[], Layout::Counters);
    assert_eq!(draws(&offered, "gpu-0000-00-00-vfio"), ["gpu-0000-00-00", "gpu-0000-01-00"]);
    assert_eq!(draws(&offered, "gpu-0000-01-00"), ["gpu-0000-01-00"]);
    let one = "- match: {pciAddress: '0000:00:00.0'}\n  vfio: {binding: dynamic}\n";
    let offered = super::offered(&inventory, &policy(one), &[], Layout::Counters);
    assert!(!device_names(&offered).iter().any(|name| name.ends_with("-vfio")), "the other one is not to be taken");
}

#[test]
fn what_is_offered_stays_while_a_virtual_machine_has_a_gpu() {
    let before = offered(&switchable(), &policy(DYNAMIC), &[], Layout::Counters);
    let Vfio { functions, .. } = testing::switchable(1);
    let bound = Vfio { functions, ..testing::vfio(1) };
    for binding in [Binding::Bound, Binding::Switchable] {
        let away = inventory(2).with_vfio(vec![testing::switchable(0), Vfio { binding, ..bound.clone() }]);
        assert_eq!(offered(&away, &policy(DYNAMIC), &[machine(1)], Layout::Counters), before);
    }
}

#[test]
fn a_policy_that_takes_it_back_waits_for_the_virtual_machine_and_the_other_way_round() {
    let whole = policy("- offer: [whole]\n");
    let offered_to = |policy: &Policy, held: &[Holding]| {
        let offered = offered(&switchable(), policy, held, Layout::Counters);
        let names = device_names(&offered).into_iter().filter(|name| name.starts_with("gpu-0000-01-00"));
        (names.collect::<Vec<_>>(), offered.waiting.len())
    };
    let names = |names: &[&str]| names.iter().map(|name| format!("gpu-0000-01-00{name}")).collect::<Vec<_>>();
    assert_eq!(offered_to(&whole, &[machine(1)]), (names(&["-vfio"]), 1));
    let machines = policy("- offer: [vfio]\n  vfio: {binding: dynamic}\n");
    assert_eq!(offered_to(&machines, &[holding(1, Part::Whole, 1)]), (names(&[]), 1));
    assert_eq!(offered_to(&machines, &[]), (names(&["-vfio"]), 0));
}

#[test]
fn without_counters_a_gpu_is_for_virtual_machines_only_or_not_at_all() {
    let names = |rules: &str| {
        let offered = offered(&switchable(), &policy(rules), &[], Layout::Fixed);
        assert!(!offered.needs_counters());
        device_names(&offered)
    };
    assert!(!names(DYNAMIC).iter().any(|name| name.ends_with("-vfio")));
    assert_eq!(names("- offer: [vfio]\n  vfio: {binding: dynamic}\n"), ["gpu-0000-00-00-vfio", "gpu-0000-01-00-vfio"]);
}

#[test]
fn a_gpu_that_is_still_to_be_taken_is_well() {
    let offered = offered(&switchable(), &policy(DYNAMIC), &[], Layout::Counters);
    let health = health_of(&switchable(), &offered, &[], &[]);
    assert!(health.iter().any(|health| health.device.ends_with("-vfio")));
    assert!(health.iter().all(|health| health.status == HealthStatus::Healthy), "{health:?}");
}

#[test]
fn a_virtual_machines_gpu_is_ill_once_it_can_not_be_had_any_more() {
    let place = "0000:41:00.0".parse().unwrap();
    let device = DeviceName::of(place, Part::Vfio);
    let held = [Holding { gpu: GpuUuid::of_place(place), device, shares: 0, memory: Memory::from_bytes(0) }];
    let told = |binding: Binding| {
        let inventory = with_vfio(&[binding]);
        let offered = offered(&inventory, &Policy::default(), &held, Layout::Counters);
        let health = health_of(&inventory, &offered, &held, &[]);
        let health = health.into_iter().find(|health| health.device == "gpu-0000-41-00-vfio").unwrap();
        (health.status, health.message)
    };
    assert_eq!(told(Binding::Bound), (HealthStatus::Healthy, String::new()));
    assert_eq!(
        told(Binding::Unusable("there is no node".into())),
        (HealthStatus::Unhealthy, "there is no node".into())
    );
    assert_eq!(told(Binding::Switchable).0, HealthStatus::Unhealthy);
}

#[test]
fn what_is_held_of_a_gpu_that_has_gone_is_unhealthy() {
    let held = [holding(0, Part::Shared, 1), holding(0, Part::Shared, 1), holding(1, Part::Whole, 1)];
    let health = health_of(&Inventory::default(), &Offered::default(), &held, &[(1, "it fell off the bus")]);
    let told: Vec<_> = health.iter().map(|health| (health.device.as_str(), health.message.as_str())).collect();
    assert_eq!(
        told,
        [("gpu-0000-00-00-shared", "the GPU is no longer there"), ("gpu-0000-01-00", "it fell off the bus")]
    );
    assert!(health.iter().all(|health| health.status == HealthStatus::Unhealthy));
}

proptest! {
    /// Whatever the slices hold, a scheduler may take: all of it must be free beside those that are here, whether it still
    /// knows of these or not.
    #[test]
    fn no_change_of_policy_offers_more_of_a_gpu_than_those_who_hold_it_leave(
        form in 0u8..3, count in 1u32..12, held_part in 0u8..3, number in 0u16..12, before in 1u32..12, fixed: bool,
    ) {
        let forms = ["[whole]", "[shares]", "[whole, shares]"][usize::from(form)];
        let rules = |count| format!("- offer: {forms}\n  shares: {{count: {count}}}\n  fallback: shares\n");
        let part = [Part::Whole, Part::Shared, Part::Slot(number)][usize::from(held_part)];
        let layout = if fixed { Layout::Fixed } else { Layout::Counters };
        let was = slot_memory(&policy(&format!("- shares: {{count: {before}}}\n")).for_gpu(&gpu(0)).unwrap().shares.unwrap());
        let held = Holding { memory: was, ..holding(0, part, 1) };
        let offered = offered(&inventory(1), &policy(&rules(count)), &[held], layout);
        let for_users: Vec<&Device> =
            offered.devices.iter().filter(|device| !device.name.ends_with("-admin")).collect();
        let parts: Vec<Part> = for_users.iter()
            .map(|device| device.name.parse::<DeviceName>().unwrap().part_of(gpu(0).pci).unwrap()).collect();
        prop_assert!(parts.is_empty() || parts.contains(&part), "{part:?} is neither there nor is the GPU withdrawn: {parts:?}");
        let slots: u64 = for_users.iter().zip(&parts).filter(|(_, part)| matches!(part, Part::Slot(_)))
            .map(|(device, other)| if *other == part { was.bytes() } else {
                device.capacity.as_ref().unwrap()["memory"].value.0.parse::<Memory>().unwrap().bytes()
            }).sum();
        prop_assert!(slots <= gpu(0).memory.bytes());
        let excludes = |other: &Part| !matches!((part, other), (Part::Slot(_), Part::Slot(_))) && part != *other;
        if parts.iter().any(excludes) {
            prop_assert!(for_users.iter().all(|device| device.consumes_counters.is_some()), "{parts:?}");
        }
        if layout == Layout::Fixed {
            prop_assert!(!offered.needs_counters());
        }
    }
}
