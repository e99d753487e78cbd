//! How devices are shared, and what keeps their uses apart.
use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    Unallocatable,
    fixtures::{Bed, only, request, whole_or_shared},
};

fn shared(requests: &Value) -> Value {
    only("shared", json!({"capacity": {"requests": requests}}))
}

fn whole() -> Value {
    only("whole", json!({}))
}

fn reason<T>(result: Result<T, Unallocatable>) -> String {
    result.err().map_or_else(String::new, |error| error.to_string())
}

#[test]
fn three_claims_share_a_device_under_names_of_their_own() {
    let mut bed = Bed::new(whole_or_shared(1));
    let mut names = BTreeSet::new();
    for _ in 0..3 {
        let result = bed.results(&only("shared", json!({}))).unwrap().remove(0);
        assert_eq!(result["device"], "gpu-0-shared");
        assert_eq!(result["consumedCapacity"], json!({"memory": "8Gi", "shares": "1"}));
        let name = result["shareID"].as_str().unwrap().to_owned();
        assert!(name.len() == 36 && name == name.to_lowercase(), "{name}");
        names.insert(name);
    }
    assert_eq!(names.len(), 3);
}

#[test]
fn a_whole_device_is_neither_a_share_nor_consumes_capacity() {
    let result = Bed::new(whole_or_shared(1)).results(&whole()).unwrap().remove(0);
    assert_eq!((&result["shareID"], &result["consumedCapacity"]), (&Value::Null, &Value::Null));
}

#[test]
fn shares_and_the_whole_keep_each_other_out_by_a_counter_in_another_slice() {
    let mut bed = Bed::new(whole_or_shared(1));
    bed.picked(&shared(&json!({}))).unwrap();
    bed.picked(&shared(&json!({}))).unwrap();
    assert_eq!(reason(bed.picked(&whole())), "cannot allocate all claims: gpu-0 lacks counters");
    bed.release(0);
    assert!(bed.picked(&whole()).is_err());
    bed.release(0);
    assert_eq!(bed.picked(&whole()).unwrap(), ["r=gpu-0"]);
    assert_eq!(reason(bed.picked(&shared(&json!({})))), "cannot allocate all claims: gpu-0-shared lacks counters");
}

#[test]
fn memory_that_is_taken_is_not_there_for_others() {
    let mut bed = Bed::new(whole_or_shared(1));
    bed.picked(&shared(&json!({"memory": "60Gi"}))).unwrap();
    bed.picked(&shared(&json!({}))).unwrap();
    let full = "cannot allocate all claims: gpu-0-shared lacks capacity";
    assert_eq!(reason(bed.picked(&shared(&json!({"memory": "20Gi"})))), full);
    bed.picked(&shared(&json!({"memory": "12Gi"}))).unwrap();
}

#[test]
fn what_is_consumed_is_rounded_up() {
    let mut bed = Bed::new(whole_or_shared(1));
    let result = bed.results(&shared(&json!({"memory": "2500Mi", "shares": "1500m"}))).unwrap().remove(0);
    assert_eq!(result["consumedCapacity"], json!({"memory": "3Gi", "shares": "2"}));
    assert!(bed.picked(&shared(&json!({"memory": "81Gi"}))).is_err());
}

#[test]
fn ten_shares_are_all_there_are() {
    let mut bed = Bed::new(whole_or_shared(1));
    for _ in 0..10 {
        bed.picked(&shared(&json!({"memory": "1Gi"}))).unwrap();
    }
    assert!(bed.picked(&shared(&json!({"memory": "1Gi"}))).is_err());
    bed.release(4);
    bed.picked(&shared(&json!({"memory": "1Gi"}))).unwrap();
}

#[test]
fn two_requests_of_a_claim_may_share_a_device() {
    let mut bed = Bed::new(whole_or_shared(2));
    let memory = |memory| json!({"capacity": {"requests": {"memory": memory}}});
    let two = |first, second| json!({"requests": [request("a", "shared", memory(first)), request("b", "shared", memory(second))]});
    let results = bed.results(&two("8Gi", "20Gi")).unwrap();
    assert_eq!((&results[0]["device"], &results[1]["device"]), (&json!("gpu-0-shared"), &json!("gpu-0-shared")));
    assert_ne!(results[0]["shareID"], results[1]["shareID"]);
    assert_eq!(bed.picked(&two("50Gi", "10Gi")).unwrap(), ["a=gpu-0-shared", "b=gpu-1-shared"]);
}

#[test]
fn a_distinct_attribute_keeps_a_claims_shares_apart() {
    let mut bed = Bed::new(whole_or_shared(2));
    let requests = [request("a", "shared", json!({})), request("b", "shared", json!({}))];
    let distinct = json!([{"distinctAttribute": "gpu.example.com/index"}]);
    for slice in &mut bed.slices {
        for (at, device) in slice.spec.devices.iter_mut().flatten().enumerate() {
            let index = serde_json::from_value(json!({"int": at})).unwrap();
            device.attributes.get_or_insert_default().insert("index".to_owned(), index);
        }
    }
    let devices = json!({"requests": requests, "constraints": distinct});
    assert_eq!(bed.picked(&devices).unwrap(), ["a=gpu-0-shared", "b=gpu-1-shared"]);
}

#[test]
fn a_count_takes_as_many_devices() {
    let mut bed = Bed::new(whole_or_shared(2));
    let two = |class| only(class, json!({"count": 2}));
    assert_eq!(bed.picked(&two("shared")).unwrap(), ["r=gpu-0-shared", "r=gpu-1-shared"]);
    assert!(Bed::new(whole_or_shared(1)).picked(&two("shared")).is_err());
}

#[test]
fn all_leaves_out_what_is_full() {
    let mut bed = Bed::new(whole_or_shared(2));
    bed.picked(&shared(&json!({"memory": "80Gi"}))).unwrap();
    assert_eq!(bed.picked(&only("shared", json!({"allocationMode": "All"}))).unwrap(), ["r=gpu-1-shared"]);
}

#[test]
fn where_no_whole_devices_are_left_an_alternative_is_a_larger_share() {
    let mut bed = Bed::new(whole_or_shared(2));
    bed.picked(&shared(&json!({}))).unwrap();
    let two = json!({"name": "whole", "deviceClassName": "whole", "count": 2});
    let share = json!({"name": "share", "deviceClassName": "shared", "capacity": {"requests": {"shares": "4"}}});
    let devices = json!({"requests": [{"name": "g", "firstAvailable": [two, share]}]});
    let results = bed.results(&devices).unwrap();
    assert_eq!(results.len(), 1);
    assert_eq!((&results[0]["request"], &results[0]["device"]), (&json!("g/share"), &json!("gpu-0-shared")));
    assert_eq!(results[0]["consumedCapacity"]["shares"], "4");
}

#[test]
fn shares_that_were_tried_and_given_up_draw_on_nothing() {
    let mut bed = Bed::new(whole_or_shared(2));
    let three = json!({"name": "shares", "deviceClassName": "shared", "count": 3});
    let one = json!({"name": "whole", "deviceClassName": "whole"});
    let devices = json!({"requests": [{"name": "g", "firstAvailable": [three, one]}]});
    assert_eq!(bed.picked(&devices).unwrap(), ["g/whole=gpu-0"]);
}

/// Seen on a Kubernetes 1.36.2, where a vfio device was the second that is whole here.
#[test]
fn eight_gpus_are_given_out_as_a_real_scheduler_has() {
    let mut bed = Bed::new(whole_or_shared(8));
    assert_eq!(bed.picked(&shared(&json!({}))).unwrap(), ["r=gpu-0-shared"]);
    assert_eq!(bed.picked(&whole()).unwrap(), ["r=gpu-1"]);
    let rest = (2..8).map(|index| format!("r=gpu-{index}"));
    assert_eq!(bed.picked(&only("whole", json!({"count": 6}))).unwrap(), rest.collect::<Vec<_>>());
    assert!(bed.picked(&whole()).is_err());
    let memory = |memory| json!({"capacity": {"requests": {"memory": memory}}});
    let two = json!({"requests": [request("a", "shared", memory("8Gi")), request("b", "shared", memory("20Gi"))]});
    assert_eq!(bed.picked(&two).unwrap(), ["a=gpu-0-shared", "b=gpu-0-shared"]);
    let wholes = json!({"name": "whole", "deviceClassName": "whole", "count": 2});
    let share = json!({"name": "share", "deviceClassName": "shared", "capacity": {"requests": {"shares": "4"}}});
    let either = json!({"requests": [{"name": "g", "firstAvailable": [wholes, share]}]});
    assert_eq!(bed.picked(&either).unwrap(), ["g/share=gpu-0-shared"]);
}

#[test]
fn a_whole_device_must_have_what_is_asked_for_and_consumes_nothing() {
    let mut bed = Bed::new(whole_or_shared(2));
    let of = |memory| only("whole", json!({"capacity": {"requests": {"memory": memory}}}));
    assert!(bed.picked(&of("81Gi")).is_err());
    assert_eq!(bed.results(&of("80Gi")).unwrap()[0]["consumedCapacity"], Value::Null);
    let unknown = only("whole", json!({"capacity": {"requests": {"shares": "1"}}}));
    assert_eq!(reason(bed.picked(&unknown)), "cannot allocate all claims: gpu-0 is in use, gpu-1 lacks capacity");
}

#[test]
fn a_device_that_is_published_as_another_kind_stays_in_use() {
    let mut bed = Bed::new(whole_or_shared(1));
    let republish = |bed: &mut Bed, multiple| {
        let device = bed.slices[0].spec.devices.as_mut().unwrap().last_mut().unwrap();
        device.allow_multiple_allocations = multiple;
    };
    bed.slices[0].spec.devices.as_mut().unwrap().remove(0);
    bed.picked(&only("shared", json!({}))).unwrap();
    republish(&mut bed, None);
    let small = only("whole", json!({"capacity": {"requests": {"memory": "1Gi", "shares": "1"}}}));
    assert_eq!(reason(bed.picked(&small)), "cannot allocate all claims: gpu-0-shared is in use");
    bed.release(0);
    bed.picked(&only("whole", json!({}))).unwrap();
    republish(&mut bed, Some(true));
    assert_eq!(reason(bed.picked(&shared(&json!({})))), "cannot allocate all claims: gpu-0-shared is in use");
}
