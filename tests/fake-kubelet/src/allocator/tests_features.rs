//! Counters, administrators, and features that are off.
use serde_json::json;

use super::{
    Features, Unallocatable,
    fixtures::{Bed, only, whole_or_shared},
};

fn reason<T>(result: Result<T, Unallocatable>) -> String {
    result.err().map_or_else(String::new, |error| error.to_string())
}

#[test]
fn what_an_administrator_has_draws_on_no_counters() {
    let mut bed = Bed::new(whole_or_shared(1));
    assert_eq!(bed.picked(&only("whole", json!({"adminAccess": true}))).unwrap(), ["r=gpu-0"]);
    assert_eq!(bed.picked(&only("shared", json!({"adminAccess": true}))).unwrap(), ["r=gpu-0-shared"]);
    assert_eq!(bed.picked(&only("whole", json!({}))).unwrap(), ["r=gpu-0"]);
}

/// kubernetes/kubernetes#140729.
#[test]
fn an_administrator_waits_for_counters_and_capacity_as_everybody_does() {
    let mut bed = Bed::new(whole_or_shared(1));
    bed.picked(&only("whole", json!({}))).unwrap();
    let whole = only("whole", json!({"adminAccess": true}));
    assert_eq!(reason(bed.picked(&whole)), "cannot allocate all claims: gpu-0 lacks counters");
    bed.release(0);
    bed.picked(&only("shared", json!({"capacity": {"requests": {"shares": "10"}}}))).unwrap();
    let share = only("shared", json!({"adminAccess": true}));
    assert_eq!(reason(bed.picked(&share)), "cannot allocate all claims: gpu-0-shared lacks capacity");
}

#[test]
fn an_overdrawn_counter_stops_the_pools_other_devices_that_draw() {
    let mut bed = Bed::new(whole_or_shared(2));
    bed.picked(&only("whole", json!({}))).unwrap();
    let sets = bed.slices[1].spec.shared_counters.as_mut().unwrap();
    sets[0].counters.values_mut().for_each(|counter| counter.value.0 = "0".to_owned());
    let refused = "cannot allocate all claims: gpu-0 is in use, gpu-1 lacks counters";
    assert_eq!(reason(bed.picked(&only("whole", json!({})))), refused);
}

#[test]
fn pools_do_not_draw_on_each_others_counters() {
    let mut bed = Bed::new(whole_or_shared(1));
    let other = whole_or_shared(1).into_iter().map(|mut slice| {
        slice.spec.pool.name = "other".to_owned();
        slice
    });
    bed.slices.extend(other);
    assert_eq!(bed.picked(&only("whole", json!({"count": 2}))).unwrap(), ["r=gpu-0", "r=gpu-0"]);
}

#[test]
fn counters_that_are_not_offered_make_a_pool_invalid() {
    let mut bed = Bed::new(whole_or_shared(2));
    bed.slices[1].spec.shared_counters.as_mut().unwrap().pop();
    let invalid = "invalid resource pools were encountered: pool node-1 of driver gpu.example.com: \
                   device gpu-1: counter whole not found in counter set gpu-1";
    assert_eq!(reason(bed.picked(&only("whole", json!({})))), invalid);
    assert_eq!(reason(bed.picked(&only("whole", json!({"allocationMode": "All"})))), invalid);
}

#[test]
fn counters_that_are_not_published_yet_make_a_pool_incomplete() {
    let mut bed = Bed::new(whole_or_shared(1));
    bed.slices.pop();
    assert_eq!(reason(bed.picked(&only("whole", json!({})))), "cannot allocate all claims");
}

#[test]
fn with_counters_off_only_devices_without_are_allocated() {
    let mut bed = Bed::new(whole_or_shared(2));
    bed.features = Features { partitionable_devices: false, ..Features::default() };
    let devices = bed.slices[0].spec.devices.as_mut().unwrap();
    devices[2].consumes_counters = None;
    assert_eq!(bed.picked(&only("whole", json!({}))).unwrap(), ["r=gpu-1"]);
    let off = "cannot allocate all claims: gpu-0 consumes counters, but the DRAPartitionableDevices feature is \
               disabled, gpu-1 is in use";
    assert_eq!(reason(bed.picked(&only("whole", json!({})))), off);
}

/// What the real scheduler does too: it does not look at the field.
#[test]
fn with_shares_off_a_device_for_many_is_allocated_once() {
    let mut bed = Bed::new(whole_or_shared(1));
    bed.picked(&only("shared", json!({}))).unwrap();
    bed.features = Features { consumable_capacity: false, ..Features::default() };
    let in_use = "cannot allocate all claims: gpu-0-shared is in use";
    assert_eq!(reason(bed.picked(&only("shared", json!({})))), in_use);
    bed.release(0);
    let result = bed.results(&only("shared", json!({}))).unwrap().remove(0);
    assert!(result.get("shareID").is_none() && result.get("consumedCapacity").is_none(), "{result}");
    assert_eq!(reason(bed.picked(&only("shared", json!({})))), in_use);
}

#[test]
fn with_shares_off_nobody_can_ask_for_capacity() {
    let mut bed = Bed::new(whole_or_shared(1));
    bed.features = Features { consumable_capacity: false, ..Features::default() };
    let asked = only("shared", json!({"capacity": {"requests": {"memory": "1Gi"}}}));
    let off = "request r: has capacity requests, but the DRAConsumableCapacity feature is disabled";
    assert_eq!(reason(bed.picked(&asked)), off);
}
