//! Finds the device plugin's configurations in a file: one by itself, or those of a `ConfigMap`.
use serde_json::{Map, Value};

use super::{
    config::{self, Config},
    notes::{Faults, Notes},
    tree::{self, At, object, optional, type_of},
};

/// All configurations of a file, in its order.
pub(crate) fn configs(file: &str, text: &str, notes: &mut Notes, faults: &mut Faults) -> Vec<Config> {
    let at = At::file(file);
    let mut configs = Vec::new();
    match tree::documents(&at, text) {
        Ok(documents) => {
            for document in &documents {
                collect(document, &at, &mut configs, notes, faults);
            }
        }
        Err(fault) => {
            *faults = fault.into();
            return configs;
        }
    }
    if configs.is_empty() && faults.is_empty() {
        faults.push(&at, "holds no configuration of NVIDIA's device plugin, and no ConfigMap with one");
    }
    for (index, config) in configs.iter().enumerate() {
        if configs.iter().take(index).any(|other| other.name == config.name) {
            faults.push(&at, format!("holds two configurations named {:?}", config.name));
        }
    }
    configs
}

fn collect(value: &Value, at: &At, configs: &mut Vec<Config>, notes: &mut Notes, faults: &mut Faults) {
    let Some(fields) = object(value, at, faults) else { return };
    match fields.get("kind").and_then(Value::as_str) {
        None => configs.push(config::decode("", value, at, notes, faults)),
        Some("ConfigMap") => config_map(fields, at, configs, notes, faults),
        Some("List" | "ConfigMapList") => {
            for (index, item) in tree::list(fields, "items", at, faults).iter().enumerate() {
                collect(item, &at.field("items").item(index), configs, notes, faults);
            }
        }
        Some(kind) => notes.warn(at, format!("{kind} is no ConfigMap, and is passed over")),
    }
}

fn config_map(fields: &Map<String, Value>, at: &At, configs: &mut Vec<Config>, notes: &mut Notes, faults: &mut Faults) {
    let data = at.field("data");
    let Some(entries) = optional(fields, "data").and_then(|value| object(value, &data, faults)) else { return };
    for (key, value) in entries {
        let at = data.field(key);
        let Some(text) = value.as_str() else {
            faults.push(at, format!("is {}, but must be a text", type_of(value)));
            continue;
        };
        if key.is_empty() || !key.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)) {
            faults.push(at, "is no key that a ConfigMap can have");
            continue;
        }
        let name = [".yaml", ".yml", ".json"].iter().find_map(|end| key.strip_suffix(end)).unwrap_or(key);
        let inner = At::file(&at.to_string());
        match tree::documents(&inner, text) {
            Err(fault) => faults.push("", fault.to_string()),
            Ok(documents) => match documents.as_slice() {
                [] => {
                    notes.note(at, "is empty: the device plugin's defaults, which share nothing");
                    configs.push(Config { name: name.to_owned(), ..Config::default() });
                }
                [one] => configs.push(config::decode(name, one, &inner, notes, faults)),
                _ => faults.push(at, "holds several documents; a configuration is one"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> (Vec<Config>, Vec<String>, String) {
        let (mut notes, mut faults) = (Notes::default(), Faults::default());
        let configs = configs("c.yaml", text, &mut notes, &mut faults);
        (configs, notes.into_vec().iter().map(ToString::to_string).collect(), faults.to_string())
    }

    #[test]
    fn each_key_of_a_config_map_is_a_configuration() {
        let text = "kind: ConfigMap\ndata:\n  a100.yaml: |\n    version: v1\n  none: ''\n  t4: |\n    sharing:\n      \
                    timeSlicing:\n        resources: [{name: gpu, replicas: 4}]\n---\nkind: Namespace\n";
        let (configs, notes, faults) = found(text);
        let names: Vec<&str> = configs.iter().map(|config| config.name.as_str()).collect();
        assert!(faults.is_empty() && names == ["a100", "none", "t4"], "{faults}");
        assert!(notes.len() == 2 && notes[1].contains("Namespace"), "{notes:?}");
    }

    #[test]
    fn faults_inside_of_a_config_map_name_its_key() {
        let (_, _, faults) = found(
            "kind: ConfigMap\ndata: {bad: 'a: [', odd: 3, 'a/b': '', other: 'x: 1', two: \"version: v1\\n---\\nversion: v1\"}",
        );
        for part in
            ["data.bad: isn't YAML", "data.odd: is a number", "data[\"a/b\"]", "data.other: isn't a conf", "data.two"]
        {
            assert!(faults.contains(part), "{part}: {faults}");
        }
    }

    #[test]
    fn a_file_without_any_is_refused() {
        assert!(found("").2.contains("holds no configuration"));
        assert!(found("kind: Pod").2.contains("holds no configuration"));
        assert!(found("kind: ConfigMap").2.contains("holds no configuration"));
        assert!(found("version: v1\n---\nversion: v1").2.contains("two configurations"));
    }
}
