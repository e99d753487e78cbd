//! What else in a pod was there for the device plugin and NVIDIA's container toolkit.
use serde_json::{Map, Value};

use super::{config::PREFIX, notes::Notes, tree::At};

const VISIBLE: &str = "NVIDIA_VISIBLE_DEVICES";
const LISTS: [&str; 2] = ["containers", "initContainers"];

/// Of a pod that now has claims: removes what the toolkit read, and explains what stays.
pub(crate) fn with_gpus(spec: &mut Map<String, Value>, at: &At, notes: &mut Notes) {
    if spec.get("runtimeClassName").and_then(Value::as_str) == Some("nvidia") {
        spec.remove("runtimeClassName");
        notes.note(
            at.field("runtimeClassName"),
            "nvidia is removed: no NVIDIA container toolkit is needed, GPUs come through CDI",
        );
    }
    for list in LISTS {
        for (index, container) in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten().enumerate() {
            environment(container, &at.field(list).item(index), notes);
        }
    }
    if spec.get("nodeName").is_some_and(|name| !name.is_null()) {
        notes.warn(
            at.field("nodeName"),
            "goes around the scheduler, which is who gives GPUs to claims: the pod would wait for ever. Use a nodeSelector",
        );
    }
    selectors(spec, at, notes);
    let tolerations = spec.get("tolerations").and_then(Value::as_array).into_iter().flatten();
    if tolerations.filter_map(|one| one.get("key")?.as_str()).any(|key| key.starts_with(PREFIX)) {
        notes.note(at.field("tolerations"), "stay, as the nodes' taints are not aliquot's to change");
    }
}

/// Of a pod that asks for no GPU, and may have seen them all the same.
pub(crate) fn without_gpus(spec: &Map<String, Value>, at: &At, notes: &mut Notes) {
    for list in LISTS {
        for (index, container) in spec.get(list).and_then(Value::as_array).into_iter().flatten().enumerate() {
            let all = container.get("env").and_then(Value::as_array).into_iter().flatten();
            let shown = all.filter(|entry| entry.get("name").and_then(Value::as_str) == Some(VISIBLE));
            for entry in shown {
                let value = entry.get("value").and_then(Value::as_str).unwrap_or_default();
                if !["", "void", "none"].contains(&value) {
                    notes.warn(
                        at.field(list).item(index).field("env"),
                        format!(
                            "{VISIBLE}={value} shows GPUs without asking for any, and stays; without the toolkit it shows none. \
                             For monitoring, claim them with adminAccess: true"
                        ),
                    );
                }
            }
        }
    }
    if spec.get("runtimeClassName").and_then(Value::as_str) == Some("nvidia") {
        notes.warn(
            at.field("runtimeClassName"),
            "nvidia stays, as the pod asks for no GPU; it must go before that class does",
        );
    }
}

fn environment(container: &mut Value, at: &At, notes: &mut Notes) {
    let Some(fields) = container.as_object_mut() else { return };
    let Some(entries) = fields.get_mut("env").and_then(Value::as_array_mut) else { return };
    let before = entries.len();
    entries.retain(|entry| entry.get("name").and_then(Value::as_str) != Some(VISIBLE));
    let is_empty = entries.is_empty();
    if entries.iter().any(|entry| entry.get("name").and_then(Value::as_str) == Some("NVIDIA_DRIVER_CAPABILITIES")) {
        notes.note(
            at.field("env"),
            "NVIDIA_DRIVER_CAPABILITIES stays and has no effect: all of the driver's libraries are there",
        );
    }
    if entries.len() < before {
        notes.note(at.field("env"), format!("{VISIBLE} is removed: the claim decides which GPUs are there"));
        if is_empty {
            fields.remove("env");
        }
    }
}

/// Labels of GPU feature discovery, which may leave together with the device plugin.
fn selectors(spec: &Map<String, Value>, at: &At, notes: &mut Notes) {
    for (key, value) in spec.get("nodeSelector").and_then(Value::as_object).into_iter().flatten() {
        label(key, value.as_str().unwrap_or_default(), &at.field("nodeSelector"), notes);
    }
    let mut found = Vec::new();
    keys(spec.get("affinity").and_then(|affinity| affinity.get("nodeAffinity")).unwrap_or(&Value::Null), &mut found);
    for key in found {
        label(key, "", &at.field("affinity").field("nodeAffinity"), notes);
    }
}

fn label(key: &str, value: &str, at: &At, notes: &mut Notes) {
    if !key.starts_with(PREFIX) {
        return;
    }
    let instead = match key {
        "nvidia.com/gpu.present" => "A claim finds its node without it",
        "nvidia.com/gpu.product" => {
            "The claim's way to say it is a selector on device.attributes[\"gpu.aliquot.dev\"].productName, which works without \
             labels"
        }
        _ => "A claim can select by the GPU's attributes instead, see aliquot-driver inspect",
    };
    let text = format!("{key} stays: it is a label of GPU feature discovery, and must remain on the nodes. {instead}");
    if value.ends_with("-SHARED") {
        notes.warn(at, format!("{text}. {value} is only there while the device plugin shares the GPU"));
    } else {
        notes.note(at, text);
    }
}

/// All values of fields named `key`, at any depth.
fn keys<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| keys(item, found)),
        Value::Object(fields) => {
            found.extend(fields.get("key").and_then(Value::as_str));
            fields.values().for_each(|value| keys(value, found));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lines(notes: Notes) -> Vec<String> {
        notes.into_vec().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_the_toolkit_read_goes_and_what_schedules_stays() {
        let affinity = json!({"nodeAffinity": {"required": {"terms": [{"key": "nvidia.com/gpu.memory"}]}}});
        let before = json!({
            "runtimeClassName": "nvidia",
            "nodeName": "n1",
            "nodeSelector": {"nvidia.com/gpu.present": "true", "nvidia.com/gpu.product": "Tesla-T4-SHARED", "zone": "a"},
            "affinity": affinity,
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
            "containers": [{"env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}, {"name": "A", "value": "b"}]},
                {"env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]}],
        });
        let mut spec = before.clone();
        let mut notes = Notes::default();
        with_gpus(spec.as_object_mut().unwrap(), &At::file("p"), &mut notes);
        let mut expected = before;
        expected.as_object_mut().unwrap().remove("runtimeClassName");
        expected["containers"] = json!([{"env": [{"name": "A", "value": "b"}]}, {}]);
        assert_eq!(spec, expected);
        let notes = lines(notes);
        for part in
            ["runtimeClassName", "gpu.present stays", "Tesla-T4-SHARED", "gpu.memory", "tolerations", "scheduler"]
        {
            assert!(notes.iter().any(|note| note.contains(part)), "{part}: {notes:#?}");
        }
    }

    #[test]
    fn a_pod_that_sees_gpus_without_asking_is_warned_of() {
        let spec = json!({"runtimeClassName": "nvidia", "containers": [
            {"env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]},
            {"env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}]}]});
        let mut notes = Notes::default();
        without_gpus(spec.as_object().unwrap(), &At::file("p"), &mut notes);
        let notes = lines(notes);
        assert!(
            notes.len() == 2 && notes[0].contains("adminAccess") && notes[1].contains("runtimeClassName"),
            "{notes:?}"
        );
    }
}
