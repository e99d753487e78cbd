//! What each kind of device is told as, and what of it changes when.
use aliquot_model::{Binding, Memory, Xid, testing};
use aliquot_params::TimeSlice;
use serde_json::json;

use super::*;
use crate::claim::{Slice, testing as records};

const DRIVER: &str = "gpu.example.com";

fn gpu(bus: u8, hard: bool) -> Gpu {
    Gpu { hard_limits: hard, process_memory: true, ..testing::gpu(bus) }
}

fn gpus(all: &[Gpu], policy: &str, ill: &[(Gpu, Cause)]) -> Gpus {
    let policy = format!("apiVersion: gpu.aliquot.dev/v1alpha1\nkind: Policy\nrules: {policy}\n");
    let mut gpus = Gpus::default();
    let ill = ill.iter().map(|(gpu, cause)| (gpu.uuid.clone(), cause.clone())).collect();
    gpus.learn(&Inventory::new(all.to_vec(), vec![]), &Policy::parse(policy.as_bytes()).unwrap(), &ill);
    gpus
}

fn share_of(gpu: &Gpu) -> Record {
    let mut record = records::share("u1", "gpu-0000-41-00", 2, 8);
    record.devices[0].gpu = gpu.uuid.clone();
    record
}

fn data(record: &Record, gpus: &Gpus) -> Value {
    entries(record, DRIVER, gpus).unwrap().remove(0).data.unwrap().0
}

#[test]
fn a_whole_gpu_is_told_by_its_uuid_its_place_and_its_product() {
    let gpu = gpu(0x41, false);
    let mut record = records::record("u1", &["gpu-0000-41-00"]);
    record.devices[0].gpu = gpu.uuid.clone();
    let entry = entries(&record, DRIVER, &gpus(std::slice::from_ref(&gpu), "[]", &[])).unwrap().remove(0);
    assert_eq!((entry.device.as_str(), entry.pool.as_str()), ("gpu-0000-41-00", "gpu.example.com/node1"));
    let told = json!({"uuid": gpu.uuid, "pciBusID": "0000:41:00.0", "productName": gpu.product_name});
    assert_eq!(entry.data.unwrap().0, told);
}

#[test]
fn a_share_says_how_much_it_is_and_who_holds_its_users_to_it() {
    let soft = gpu(0x41, false);
    let told = |policy: &str| data(&share_of(&soft), &gpus(std::slice::from_ref(&soft), policy, &[]))["share"].clone();
    assert_eq!(
        told("[{shares: {guard: {mode: evict}}}]"),
        json!({"shares": 2, "memory": "8Gi", "memoryEnforcement": "guard", "memoryGuard": "evict"})
    );
    let unguarded = json!({"shares": 2, "memory": "8Gi", "memoryEnforcement": "none"});
    assert_eq!(told("[{shares: {guard: {mode: 'off'}}}]"), unguarded);
    let mut record = share_of(&soft);
    record.devices[0].share.as_mut().unwrap().hard = true;
    record.devices[0].time_slice = Some(Slice { interval: TimeSlice::Short, asked: true, required: false });
    let told = data(&record, &gpus(&[gpu(0x41, true)], "[]", &[]));
    assert_eq!((&told["share"]["memoryEnforcement"], &told["timeSlice"]), (&json!("hard"), &json!("Short")));
}

#[test]
fn a_gpu_that_falls_ill_or_goes_away_is_told_of_in_a_condition() {
    let gpu = gpu(0x41, false);
    let healthy = |gpus: &Gpus| {
        let entry = entries(&share_of(&gpu), DRIVER, gpus).unwrap().remove(0);
        let conditions = entry.conditions.unwrap();
        assert_eq!((conditions[0].type_.as_str(), conditions[0].status.as_str()), ("Ready", "True"));
        (conditions[1].status.clone(), conditions[1].reason.clone())
    };
    let mut seen = gpus(std::slice::from_ref(&gpu), "[]", &[]);
    assert_eq!(healthy(&seen), ("True".to_owned(), "NoErrors".to_owned()));
    let ill = gpus(std::slice::from_ref(&gpu), "[]", &[(gpu.clone(), Cause::Xid(Xid(95)))]);
    assert_eq!(healthy(&ill), ("False".to_owned(), "GPUUnhealthy".to_owned()));
    seen.learn(&Inventory::default(), &Policy::default(), &BTreeMap::new());
    assert_eq!(healthy(&seen), ("False".to_owned(), "GPUGone".to_owned()));
}

#[test]
fn a_virtual_machines_gpu_is_told_by_its_place_and_its_group_and_nobody_knows_how_it_is() {
    let mut gpus = Gpus::default();
    let mut learn = |vfio: Vec<Vfio>| {
        gpus.learn(&Inventory::default().with_vfio(vfio), &Policy::default(), &BTreeMap::new());
        entries(&records::passed("u1", &["0000:41:00.0", "0000:42:00.0"]), DRIVER, &gpus).unwrap().remove(0)
    };
    let entry = learn(vec![testing::vfio(0x41)]);
    let told = json!({"uuid": "GPU-pci-0000-41-00-0", "pciBusID": "0000:41:00.0", "iommuGroup": 12,
        "morePCIBusIDs": ["0000:42:00.0"], "productName": "GH100 [H100 SXM5 80GB]"});
    assert_eq!(entry.data.unwrap().0, told);
    let healthy = |entry: Vec<Condition>| (entry[1].status.clone(), entry[1].reason.clone());
    assert_eq!(healthy(entry.conditions.unwrap()), ("Unknown".to_owned(), "InVirtualMachine".to_owned()));
    let lost = learn(vec![Vfio { binding: Binding::Switchable, ..testing::vfio(0x41) }]);
    assert_eq!(healthy(lost.conditions.unwrap()), ("False".to_owned(), "VfioGPULost".to_owned()));
    assert_eq!(healthy(learn(vec![]).conditions.unwrap()), ("False".to_owned(), "GPUGone".to_owned()));
}

#[test]
fn nothing_is_told_of_a_gpu_that_was_never_seen() {
    assert_eq!(entries(&records::record("u1", &["gpu-0000-41-00"]), DRIVER, &Gpus::default()), None);
}

#[test]
fn what_is_there_already_is_equal_and_only_what_turns_has_a_new_time() {
    let gpu = gpu(0x41, false);
    let (first, later) = (Timestamp::from_second(100).unwrap(), Timestamp::from_second(200).unwrap());
    let well = entries(&share_of(&gpu), DRIVER, &gpus(std::slice::from_ref(&gpu), "[]", &[])).unwrap();
    let there = stamped(well.clone(), &[], first);
    assert_eq!(stamped(well, &there, later), there);
    let cause = Cause::Xid(Xid(95));
    let ill =
        entries(&share_of(&gpu), DRIVER, &gpus(std::slice::from_ref(&gpu), "[]", &[(gpu.clone(), cause)])).unwrap();
    let turned = stamped(ill, &there, later).remove(0).conditions.unwrap();
    let times: Vec<_> = turned.iter().map(|condition| condition.last_transition_time.0).collect();
    assert_eq!(times, [first, later]);
}

#[test]
fn the_largest_entry_is_one_that_the_api_server_takes() {
    // KEP-4817: at most 10 KiB of data.
    let long = Gpu { product_name: "x".repeat(96), memory: Memory::from_bytes(u64::MAX), ..gpu(0x41, true) };
    let told = data(&share_of(&long), &gpus(std::slice::from_ref(&long), "[]", &[]));
    assert!(told.to_string().len() < 10 << 10);
}
