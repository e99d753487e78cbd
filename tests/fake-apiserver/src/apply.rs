//! Patches: how one document changes another.
use serde_json::{Map, Value};

/// Fields by which the items of a list are told apart in server-side apply.
const KEYS: [&[&str]; 6] =
    [&["driver", "pool", "device"], &["uid"], &["type"], &["name"], &["key", "effect"], &["key"]];

/// Of those, what need not be there.
const OPTIONAL: [&str; 1] = ["shareID"];

/// A JSON merge patch (RFC 7386).
pub(crate) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        target.clone_from(patch);
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(fields) = target.as_object_mut() else { return };
    for (name, value) in patch {
        if value.is_null() {
            fields.remove(name);
        } else {
            merge(fields.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Server-side apply with one manager: fields that are named are set, items of keyed lists are matched, nothing is taken
/// away.
pub(crate) fn apply(target: &mut Value, patch: &Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (name, value) in patch {
                apply(target.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (Value::Array(target), Value::Array(patch)) if key_of(patch).is_some() => {
            let keys = key_of(patch).unwrap_or_default();
            for item in patch {
                let same = |known: &&mut Value| keys.iter().chain(&OPTIONAL).all(|key| known.get(key) == item.get(key));
                match target.iter_mut().find(same) {
                    Some(known) => apply(known, item),
                    None => target.push(item.clone()),
                }
            }
        }
        (target, patch) => target.clone_from(patch),
    }
}

fn key_of(items: &[Value]) -> Option<&'static [&'static str]> {
    let has_all = |keys: &&&[&str]| items.iter().all(|item| keys.iter().all(|key| item.get(key).is_some()));
    KEYS.iter().find(has_all).copied().filter(|_| !items.is_empty())
}

/// Takes a field away, as an API server does whose feature for it is off; `[]` goes into every item of a list, `*` into every
/// field of an object.
pub(crate) fn drop_field(object: &mut Value, path: &str) {
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    if let ("*", Some(rest), Value::Object(fields)) = (first, rest, &mut *object) {
        return fields.values_mut().for_each(|inner| drop_field(inner, rest));
    }
    let name = first.trim_end_matches("[]");
    match (rest, object.get_mut(name)) {
        (None, Some(_)) => {
            object.as_object_mut().map(|fields| fields.remove(name));
        }
        (Some(rest), Some(Value::Array(items))) => items.iter_mut().for_each(|item| drop_field(item, rest)),
        (Some(rest), Some(inner)) => drop_field(inner, rest),
        (_, None) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_merge_patch_sets_and_removes() {
        let mut object = json!({"a": 1, "b": {"c": 2, "d": 3}});
        merge(&mut object, &json!({"a": null, "b": {"c": 4}, "e": [1]}));
        assert_eq!(object, json!({"b": {"c": 4, "d": 3}, "e": [1]}));
    }

    #[test]
    fn apply_matches_items_by_their_keys() {
        let mut object = json!({"devices": [{"driver": "d", "pool": "p", "device": "1", "data": 1}]});
        apply(
            &mut object,
            &json!({"devices": [
            {"driver": "d", "pool": "p", "device": "1", "more": 2}, {"driver": "d", "pool": "p", "device": "2"},
            {"driver": "d", "pool": "p", "device": "1", "shareID": "s"}]}),
        );
        assert_eq!(object["devices"][0], json!({"driver": "d", "pool": "p", "device": "1", "data": 1, "more": 2}));
        assert_eq!(object["devices"].as_array().map(Vec::len), Some(3));
    }

    #[test]
    fn a_field_is_dropped_from_every_item() {
        let mut object = json!({"spec": {"devices": [{"name": "a", "x": true}, {"name": "b"}]}});
        drop_field(&mut object, "spec.devices[].x");
        assert_eq!(object, json!({"spec": {"devices": [{"name": "a"}, {"name": "b"}]}}));
    }

    #[test]
    fn a_field_is_dropped_from_every_field_of_an_object() {
        let mut object = json!({"capacity": {"a": {"value": 1, "x": 2}, "b": {"value": 3}}});
        drop_field(&mut object, "capacity.*.x");
        assert_eq!(object, json!({"capacity": {"a": {"value": 1}, "b": {"value": 3}}}));
    }
}
