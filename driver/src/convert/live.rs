//! What objects that were read from a cluster have beyond manifests: it names one state of them, and no one writes it.
use serde_json::{Map, Value};

use super::workload;

/// The fields of `metadata` that are the API server's.
const SET: [&str; 6] = ["creationTimestamp", "generation", "managedFields", "resourceVersion", "selfLink", "uid"];
/// What `kubectl apply` keeps of the manifest; it would be that of the pods before.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What is to be done with the rest.
pub(crate) const NOTE: &str = "holds objects of a cluster: what the API server set is left out. Put them in place with \
                               kubectl replace -f, and apply only the other files of --out: kubectl apply leaves what it \
                               hasn't set itself, so that the pods would still ask for nvidia.com/gpu as well";

/// Removes it from a document and all in its lists; true if any was read from a cluster.
pub(crate) fn strip(document: &mut Value) -> bool {
    strip_as(document, None)
}

fn strip_as(document: &mut Value, default_kind: Option<&str>) -> bool {
    let Some(fields) = document.as_object_mut() else { return false };
    let mut is_live = false;
    if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
        is_live = ["uid", "resourceVersion"].iter().any(|name| is_text(metadata.get(*name)));
        let before = metadata.len();
        metadata.retain(|name, _| !SET.contains(&name.as_str()));
        is_live |= last_applied(metadata);
        if metadata.is_empty() && before > 0 {
            fields.remove("metadata");
        }
    }
    let kind = fields.get("kind").and_then(Value::as_str).or(default_kind).unwrap_or_default().to_owned();
    if let Some(item_kind) = kind.strip_suffix("List") {
        // A list has a version by itself, and is no object.
        let item_kind = (!item_kind.is_empty()).then_some(item_kind);
        let items = fields.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten();
        return items.fold(false, |is_live, item| strip_as(item, item_kind) | is_live);
    }
    // Of kinds that others define, the status may be what someone writes.
    if workload::has_pods(&kind) {
        fields.remove("status");
    }
    is_live
}

fn is_text(value: Option<&Value>) -> bool {
    value.and_then(Value::as_str).is_some_and(|text| !text.is_empty())
}

/// Whether it was there.
fn last_applied(metadata: &mut Map<String, Value>) -> bool {
    let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) else { return false };
    let was_there = annotations.remove(LAST_APPLIED).is_some();
    if was_there && annotations.is_empty() {
        metadata.remove("annotations");
    }
    was_there
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_api_server_set_goes_and_all_else_stays() {
        let set = json!({"name": "web", "uid": "3b1c", "resourceVersion": "7", "generation": 3, "selfLink": "/x",
            "creationTimestamp": "2026-01-12T09:14:03Z", "managedFields": [{"manager": "helm"}],
            "annotations": {LAST_APPLIED: "{}", "a": "b"}, "labels": {"c": "d"}, "ownerReferences": [{"uid": "1"}]});
        let template = json!({"metadata": {"creationTimestamp": null}, "spec": {}});
        let live =
            json!({"kind": "Deployment", "metadata": set, "spec": {"template": template}, "status": {"replicas": 1}});
        let left =
            json!({"name": "web", "annotations": {"a": "b"}, "labels": {"c": "d"}, "ownerReferences": [{"uid": "1"}]});
        let expected = json!({"kind": "Deployment", "metadata": left, "spec": {"template": template}});

        let mut one = live.clone();
        assert!(strip(&mut one));
        assert_eq!(one, expected);
        let mut list = json!({"kind": "List", "metadata": {"resourceVersion": ""}, "items": [live]});
        assert!(strip(&mut list));
        assert_eq!(list, json!({"kind": "List", "items": [expected]}));
        let mut typed = json!({"kind": "PodList", "metadata": {"resourceVersion": "9"},
            "items": [{"metadata": {"name": "a", "uid": "1"}, "status": {}}]});
        assert!(strip(&mut typed));
        assert_eq!(typed, json!({"kind": "PodList", "items": [{"metadata": {"name": "a"}}]}));
    }

    #[test]
    fn a_manifest_stays_as_it_is() {
        for manifest in [
            json!({"kind": "Pod", "metadata": {"name": "a", "annotations": {}}, "spec": {}}),
            json!({"kind": "Quiz", "metadata": {}, "status": "hand-made"}),
            json!({"kind": "List", "items": []}),
            json!({"kind": "List", "items": 3}),
            json!({"metadata": 3}),
            json!([1]),
        ] {
            let mut value = manifest.clone();
            assert!(!strip(&mut value) && value == manifest, "{manifest}");
        }
    }

    #[test]
    fn the_last_applied_manifest_alone_tells_a_live_object() {
        let mut value = json!({"kind": "Pod", "metadata": {"name": "a", "annotations": {LAST_APPLIED: "{}"}}});
        assert!(strip(&mut value));
        assert_eq!(value, json!({"kind": "Pod", "metadata": {"name": "a"}}));
    }
}
