//! What the API server checks of `status.devices` of claims (KEP-4817): whose they are, and that they are allocated.
use std::collections::BTreeSet;

use serde_json::Value;

use crate::{kinds::Kind, permissions::Asked, server::Shared, status::Failure};

/// The fields by which an entry is told from others, and by which it belongs to a result of the allocation.
const KEYS: [&str; 4] = ["driver", "pool", "device", "shareID"];

/// Whether whoever has this token may change these entries so (Kubernetes 1.36: a permission for each driver whose entries
/// change, here always as from its own node), and whether each is of an allocated device.
pub(crate) fn judge(
    shared: &Shared,
    token: Option<&str>,
    (verb, kind): (&str, &Kind),
    before: &Value,
    after: &Value,
) -> Result<(), Failure> {
    if kind.resource != "resourceclaims" {
        return Ok(());
    }
    let (old, new) = (entries(before), entries(after));
    let changed =
        new.iter().filter(|entry| !old.contains(entry)).chain(old.iter().filter(|entry| !new.contains(entry)));
    let drivers: BTreeSet<&str> = changed.filter_map(|entry| entry["driver"].as_str()).collect();
    for driver in drivers {
        let asked = Asked {
            verb: format!("associated-node:{verb}"),
            group: kind.group.to_owned(),
            resource: "resourceclaims/driver".to_owned(),
            name: Some(driver.to_owned()),
        };
        if !shared.permissions().allow(token, &asked) {
            let message = format!("Forbidden: changing status.devices requires {asked:?}");
            return Err(Failure::invalid_field("FieldValueForbidden", "status.devices", &message));
        }
    }
    let results = after.pointer("/status/allocation/devices/results").and_then(Value::as_array);
    let is_allocated = |entry: &Value| {
        let is_same = |result: &Value| KEYS.iter().all(|key| result.get(key) == entry.get(key));
        results.into_iter().flatten().any(is_same)
    };
    match new.iter().position(|entry| !is_allocated(entry) && !old.contains(entry)) {
        Some(at) => {
            let message = "Invalid value: must be an allocated device in the claim";
            Err(Failure::invalid_field("FieldValueInvalid", &format!("status.devices[{at}]"), message))
        }
        None => Ok(()),
    }
}

fn entries(claim: &Value) -> Vec<Value> {
    claim.pointer("/status/devices").and_then(Value::as_array).cloned().unwrap_or_default()
}
