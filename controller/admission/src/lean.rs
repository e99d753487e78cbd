//! Reads of an object what is judged, and no more than a bounded number of values, whatever is sent. Pure.
//!
//! A value takes dozens of bytes of memory, and two of a body (`0,`): a list of them would take the process's memory many
//! times over.
use std::{cell::Cell, fmt};

use serde::{
    Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

/// Of values that are kept of one object. An object may have 32 sets of parameters, each of 10 KiB.
const MOST_VALUES: usize = 50_000;

/// What is kept.
enum Shape {
    All,
    Only(&'static [(&'static str, Self)]),
    Each(&'static Self),
}

use Shape::{All, Each, Only};

/// For the lists in claims and templates.
const DEVICES: Shape =
    Only(&[("config", All), ("requests", Each(&Only(&[("name", All), ("firstAvailable", Each(&Only(&[])))])))]);
/// Of each kind of object that is judged.
const OBJECT: Shape = Only(&[
    ("metadata", Only(&[("name", All), ("generateName", All), ("deletionTimestamp", All)])),
    ("spec", Only(&[("config", All), ("devices", DEVICES), ("spec", Only(&[("devices", DEVICES)]))])),
]);

/// What is judged of an object; of whatever else, nothing.
pub(crate) fn object<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
    Keep { shape: &OBJECT, left: &Cell::new(MOST_VALUES) }.deserialize(deserializer)
}

#[derive(Clone, Copy)]
struct Keep<'a> {
    shape: &'static Shape,
    left: &'a Cell<usize>,
}

impl Keep<'_> {
    fn of(self, shape: &'static Shape) -> Self {
        Self { shape, ..self }
    }

    fn one<E: Error>(self) -> Result<(), E> {
        let left = self.left.get().checked_sub(1);
        self.left.set(left.ok_or_else(|| E::custom(format_args!("an object has more than {MOST_VALUES} values")))?);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Keep<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.one()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Keep<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let each = match self.shape {
            All => self,
            Each(shape) => self.of(shape),
            Only(_) => {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(Value::Null);
            }
        };
        let mut kept = Vec::new();
        while let Some(value) = list.next_element_seed(each)? {
            kept.push(value);
        }
        Ok(kept.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut kept = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let shape = match self.shape {
                All => Some(&All),
                Each(_) => None,
                Only(fields) => fields.iter().find_map(|(field, shape)| (*field == name).then_some(shape)),
            };
            if let Some(shape) = shape {
                kept.insert(name, map.next_value_seed(self.of(shape))?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(kept.into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn kept(text: &str) -> serde_json::Result<Value> {
        object(&mut serde_json::Deserializer::from_str(text))
    }

    #[test]
    fn what_is_judged_is_kept_and_the_rest_is_not() {
        let config =
            json!([{"requests": ["gpu"], "opaque": {"driver": "d", "parameters": {"a": [1, -2, 0.5, null, true]}}}]);
        let devices = json!({"config": config, "constraints": [{"matchAttribute": "x"}], "requests": [
            {"name": "one", "exactly": {"count": 2}}, {"name": "any", "firstAvailable": [{"name": "whole"}]}]});
        let lean = json!({"config": config, "requests": [{"name": "one"}, {"name": "any", "firstAvailable": [{}]}]});
        for (spec, of_spec) in [
            (json!({"devices": devices}), json!({"devices": lean})),
            (json!({"spec": {"devices": devices}, "metadata": {}}), json!({"spec": {"devices": lean}})),
            (json!({"config": config, "selectors": [{"cel": {}}]}), json!({"config": config})),
            (json!([1, 2]), Value::Null),
            (json!("text"), json!("text")),
        ] {
            let whole =
                json!({"kind": "Any", "metadata": {"name": "n", "managedFields": [{}]}, "spec": spec, "status": {}});
            assert_eq!(kept(&whole.to_string()).unwrap(), json!({"metadata": {"name": "n"}, "spec": of_spec}));
        }
    }

    #[test]
    fn an_object_with_more_values_than_any_can_have_is_refused_and_what_is_ignored_does_not_count() {
        let zeros = vec!["0"; MOST_VALUES].join(",");
        for text in [
            format!(r#"{{"spec": {{"config": [{zeros}]}}}}"#),
            format!(r#"{{"spec": {{"devices": {{"requests": [{zeros}]}}}}}}"#),
            format!(r#"{{"spec": {{"devices": {{"requests": [{{"firstAvailable": [{zeros}]}}]}}}}}}"#),
        ] {
            assert!(kept(&text).unwrap_err().to_string().contains("more than 50000 values"));
        }
        let ignored = format!(r#"{{"status": [{zeros}], "spec": {{"devices": [{zeros}]}}}}"#);
        assert_eq!(kept(&ignored).unwrap(), json!({"spec": {"devices": null}}));
    }
}
