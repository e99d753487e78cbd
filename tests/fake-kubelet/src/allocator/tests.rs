//! What the allocator picks, and how it says so.
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceSlice};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    Cluster, Features, InUse, Unallocatable, allocate,
    fixtures::{NODE, claim, class, four_gpus, held, product},
};

fn at_node<'a>(slices: &'a [ResourceSlice], classes: &'a [DeviceClass], in_use: &'a InUse) -> Cluster<'a> {
    Cluster { slices, classes, in_use, node: NODE, features: Features::default() }
}

fn nothing_fits<T>(result: &Result<T, Unallocatable>) -> bool {
    matches!(result, Err(Unallocatable::NoDevices(_)))
}

fn allocation(devices: &Value, in_use: &[&str]) -> Result<Value, Unallocatable> {
    let classes = [class("gpu", &Value::Null)];
    let in_use: Vec<_> = in_use.iter().map(|device| held(device)).collect();
    let in_use = InUse::by(&in_use).unwrap();
    let allocation = allocate(&claim(devices), at_node(&four_gpus(), &classes, &in_use))?;
    Ok(serde_json::to_value(allocation).unwrap())
}

/// `request=device` of each result.
fn picked(devices: &Value, in_use: &[&str]) -> Result<Vec<String>, Unallocatable> {
    let allocation = allocation(devices, in_use)?;
    let results = allocation["devices"]["results"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    Ok(results.map(|result| format!("{}={}", text(&result["request"]), text(&result["device"]))).collect())
}

fn exactly(name: &str, mut terms: Value) -> Value {
    terms["deviceClassName"] = json!("gpu");
    json!({"name": name, "exactly": terms})
}

fn one(terms: Value) -> Value {
    json!({"requests": [exactly("r", terms)]})
}

#[test]
fn the_first_free_device_is_picked() {
    assert_eq!(picked(&one(json!({})), &["gpu-0"]).unwrap(), ["r=gpu-1"]);
}

#[test]
fn an_allocation_names_its_node_and_nothing_that_does_not_apply() {
    assert_eq!(
        allocation(&one(json!({})), &[]).unwrap(),
        json!({
            "devices": {"results": [{"request": "r", "driver": "gpu.example.com", "pool": NODE, "device": "gpu-0"}]},
            "nodeSelector": {"nodeSelectorTerms": [
                {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [NODE]}]},
            ]},
        })
    );
}

#[test]
fn a_count_needs_as_many() {
    assert_eq!(picked(&one(json!({"count": 3})), &["gpu-1"]).unwrap(), ["r=gpu-0", "r=gpu-2", "r=gpu-3"]);
    assert!(nothing_fits(&picked(&one(json!({"count": 4})), &["gpu-1"])));
}

#[test]
fn all_means_every_matching_device_and_at_least_one() {
    let all = |name| one(json!({"allocationMode": "All", "selectors": product(name)}));
    assert_eq!(picked(&all("H200"), &["gpu-0"]).unwrap(), ["r=gpu-2", "r=gpu-3"]);
    assert!(nothing_fits(&picked(&all("H200"), &["gpu-3"])));
    assert!(nothing_fits(&picked(&all("A100"), &[])));
}

#[test]
fn an_administrator_gets_devices_that_others_use() {
    let all = one(json!({"allocationMode": "All", "adminAccess": true, "selectors": product("H100")}));
    let allocation = allocation(&all, &["gpu-0", "gpu-1"]).unwrap();
    assert_eq!(allocation["devices"]["results"][1]["device"], "gpu-1");
    assert_eq!(allocation["devices"]["results"][1]["adminAccess"], true);
}

#[test]
fn the_first_alternative_that_fits_is_named_in_the_result() {
    let sub =
        |name, count| json!({"name": name, "deviceClassName": "gpu", "count": count, "selectors": product("H200")});
    let devices = json!({"requests": [{"name": "r", "firstAvailable": [sub("two", 2), sub("one", 1)]}]});
    assert_eq!(picked(&devices, &[]).unwrap(), ["r/two=gpu-2", "r/two=gpu-3"]);
    assert_eq!(picked(&devices, &["gpu-2"]).unwrap(), ["r/one=gpu-3"]);
}

#[test]
fn an_earlier_request_leaves_what_only_a_later_one_can_use() {
    let devices = json!({
        "requests": [exactly("any", json!({})), exactly("pair", json!({"count": 2, "selectors": product("H100")}))],
    });
    assert_eq!(picked(&devices, &[]).unwrap(), ["any=gpu-2", "pair=gpu-0", "pair=gpu-1"]);
}

#[test]
fn constrained_devices_have_the_same_or_distinct_values() {
    let two = |constraint| {
        let requests = [exactly("a", json!({})), exactly("b", json!({}))];
        json!({"requests": requests, "constraints": [constraint]})
    };
    let same = two(json!({"matchAttribute": "resource.kubernetes.io/pcieRoot"}));
    assert_eq!(picked(&same, &["gpu-0"]).unwrap(), ["a=gpu-2", "b=gpu-3"]);
    assert!(nothing_fits(&picked(&same, &["gpu-0", "gpu-2"])));
    let of_one = two(json!({"matchAttribute": "resource.kubernetes.io/pcieRoot", "requests": ["a"]}));
    assert_eq!(picked(&of_one, &["gpu-0"]).unwrap(), ["a=gpu-1", "b=gpu-2"]);
    let distinct = two(json!({"distinctAttribute": "gpu.example.com/productName"}));
    assert_eq!(picked(&distinct, &[]).unwrap(), ["a=gpu-0", "b=gpu-2"]);
    let unknown = two(json!({"matchAttribute": "gpu.example.com/nope"}));
    assert!(nothing_fits(&picked(&unknown, &[])));
}

#[test]
fn a_tainted_device_needs_a_toleration() {
    let mut slices = four_gpus();
    for device in slices[0].spec.devices.iter_mut().flatten().take(3) {
        device.taints =
            serde_json::from_value(json!([{"key": "sick", "value": "xid", "effect": "NoSchedule"}])).unwrap();
    }
    let first = |terms| {
        let claim = claim(&one(terms));
        let allocation = allocate(&claim, at_node(&slices, &[class("gpu", &Value::Null)], &InUse::default())).unwrap();
        allocation.devices.unwrap().results.unwrap().remove(0).device
    };
    assert_eq!(first(json!({})), "gpu-3");
    assert_eq!(first(json!({"tolerations": [{"key": "sick", "value": "other"}]})), "gpu-3");
    assert_eq!(first(json!({"tolerations": [{"key": "sick", "value": "xid"}]})), "gpu-0");
    assert_eq!(first(json!({"tolerations": [{"operator": "Exists", "effect": "NoSchedule"}]})), "gpu-0");
}

#[test]
fn configuration_of_the_class_comes_before_the_claims() {
    let opaque = |text| json!({"opaque": {"driver": "gpu.example.com", "parameters": {"from": text}}});
    let mut of_b = opaque("claim, b");
    of_b["requests"] = json!(["b"]);
    let mut of_none = opaque("claim, not chosen");
    of_none["requests"] = json!(["b/other"]);
    let claim = claim(&json!({
        "requests": [exactly("a", json!({})), exactly("b", json!({}))],
        "config": [opaque("claim"), of_b, of_none],
    }));
    let classes = [class("gpu", &json!([opaque("class")]))];
    let allocation = allocate(&claim, at_node(&four_gpus(), &classes, &InUse::default())).unwrap();
    let found = allocation.devices.unwrap().config.unwrap().into_iter().map(|config| {
        let from = config.opaque.unwrap().parameters.0["from"].as_str().unwrap().to_owned();
        (config.source, config.requests.unwrap_or_default().join(","), from)
    });
    let expected = [("FromClass", "a,b", "class"), ("FromClaim", "", "claim"), ("FromClaim", "b", "claim, b")];
    let expected = expected.map(|(source, requests, from)| (source.to_owned(), requests.to_owned(), from.to_owned()));
    assert_eq!(found.collect::<Vec<_>>(), expected);
}

#[test]
fn what_is_not_modelled_is_an_error() {
    let derived = one(json!({"derivedAttributes": [{"name": "n", "expression": "1"}]}));
    let error = picked(&derived, &[]).unwrap_err().to_string();
    assert_eq!(error, "request r: this stand-in does not model derivedAttributes");
    let mut empty = one(json!({}));
    empty["constraints"] = json!([{"requests": ["r"]}]);
    let error = picked(&empty, &[]).unwrap_err().to_string();
    assert_eq!(error, "constraint #0: this stand-in does not model this type of constraint");
    let unknown = json!({"requests": [{"name": "r", "exactly": {"deviceClassName": "nope"}}]});
    assert_eq!(picked(&unknown, &[]).unwrap_err().to_string(), "request r: device class nope not found");
}

#[test]
fn where_nothing_fits_the_devices_that_match_say_why() {
    let mut devices = one(json!({"count": 2, "selectors": product("H100")}));
    let error = picked(&devices, &["gpu-1", "gpu-3"]).unwrap_err().to_string();
    assert_eq!(error, "cannot allocate all claims: gpu-1 is in use");
    devices["constraints"] = json!([{"distinctAttribute": "gpu.example.com/productName"}]);
    let error = picked(&devices, &[]).unwrap_err().to_string();
    assert_eq!(error, "cannot allocate all claims: gpu-1 violates a constraint");
    let error = picked(&one(json!({"selectors": product("A100")})), &[]).unwrap_err().to_string();
    assert_eq!(error, "cannot allocate all claims");
}

proptest! {
    #[test]
    fn no_device_is_picked_twice_or_while_in_use(used in proptest::collection::btree_set(0..4_usize, 0..4), counts in proptest::collection::vec(1..3_usize, 1..4)) {
        let used: Vec<_> = used.iter().map(|index| format!("gpu-{index}")).collect();
        let used: Vec<_> = used.iter().map(String::as_str).collect();
        let requests = counts.iter().enumerate().map(|(at, count)| exactly(&format!("r{at}"), json!({"count": count})));
        let picked = picked(&json!({"requests": requests.collect::<Vec<_>>()}), &used);
        let wanted: usize = counts.iter().sum();
        prop_assert_eq!(picked.is_ok(), wanted <= 4 - used.len());
        let mut devices: Vec<_> = picked.unwrap_or_default().iter().map(|p| p.split_once('=').unwrap().1.to_owned()).collect();
        prop_assert!(devices.iter().all(|device| !used.contains(&device.as_str())));
        devices.sort();
        let picked = devices.len();
        devices.dedup();
        prop_assert_eq!(devices.len(), picked);
    }
}
