//! What `--release-stuck-claims` writes: a claim's status without reservations for pods that are gone. Pure.
use serde_json::{Value, json};

use crate::index::Uid;

/// A merge patch of the claim's status, or the reason why there is none.
///
/// It is what kube-controller-manager would write (`syncClaim` of its controller `resourceclaim`): without the reservations,
/// and without the allocation if none is left, since nobody would ever look at a claim again that is allocated and not
/// reserved. It holds for this version of the claim only. A claim that also has devices of another driver is left alone:
/// what that one needs isn't known here.
pub(super) fn patch(claim: &Value, driver: &str, gone: &[Uid]) -> Result<Value, &'static str> {
    let results = claim.pointer("/status/allocation/devices/results").and_then(Value::as_array);
    if !results.is_some_and(|results| results.iter().all(|result| result["driver"] == driver)) {
        return Err("it has devices of another driver, or none");
    }
    let metadata = |field: &str| claim.pointer(&format!("/metadata/{field}")).filter(|value| value.is_string());
    let (Some(uid), Some(version)) = (metadata("uid"), metadata("resourceVersion")) else {
        return Err("it has no UID or version");
    };
    let reserved =
        claim.pointer("/status/reservedFor").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let is_gone = |entry: &&Value| {
        let of_core = entry["apiGroup"].as_str().unwrap_or_default().is_empty() && entry["resource"] == "pods";
        of_core && entry["uid"].as_str().is_some_and(|uid| gone.contains(&Uid::new(uid)))
    };
    let left: Vec<&Value> = reserved.iter().filter(|entry| !is_gone(entry)).collect();
    if left.len() == reserved.len() {
        return Err("it isn't reserved for them any more");
    }
    let status =
        if left.is_empty() { json!({"reservedFor": null, "allocation": null}) } else { json!({ "reservedFor": left }) };
    Ok(json!({"metadata": {"uid": uid, "resourceVersion": version}, "status": status}))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRIVER: &str = "gpu.aliquot.dev";

    fn claim(drivers: &[&str], reserved: &Value) -> Value {
        let results: Vec<Value> = drivers.iter().map(|driver| json!({"driver": driver})).collect();
        json!({"metadata": {"uid": "u1", "resourceVersion": "7"},
            "status": {"allocation": {"devices": {"results": results}}, "reservedFor": reserved}})
    }

    fn pod(uid: &str) -> Value {
        json!({"resource": "pods", "name": uid, "uid": uid, "unknown": true})
    }

    #[test]
    fn only_gone_pods_go_and_the_allocation_stays_while_anyone_is_left() {
        let reserved = json!([pod("a"), pod("b"), {"apiGroup": "example.com", "resource": "pods", "uid": "a"}]);
        let patch = patch(&claim(&[DRIVER], &reserved), DRIVER, &[Uid::new("a")]).unwrap();
        assert_eq!(patch["status"], json!({"reservedFor": [reserved[1], reserved[2]]}));
        assert_eq!(patch["metadata"], json!({"uid": "u1", "resourceVersion": "7"}));
    }

    #[test]
    fn the_allocation_goes_with_the_last_reservation() {
        let patch = patch(&claim(&[DRIVER], &json!([pod("a")])), DRIVER, &[Uid::new("a")]).unwrap();
        assert_eq!(patch["status"], json!({"reservedFor": null, "allocation": null}));
    }

    #[test]
    fn what_is_not_ours_or_not_so_any_more_is_left_alone() {
        let gone = [Uid::new("a")];
        for claim in [
            claim(&[DRIVER, "other.example.com"], &json!([pod("a")])),
            claim(&[DRIVER], &json!([pod("b")])),
            json!({"metadata": {"uid": "u1", "resourceVersion": "7"}, "status": {"reservedFor": [pod("a")]}}),
        ] {
            assert!(patch(&claim, DRIVER, &gone).is_err(), "{claim}");
        }
    }
}
