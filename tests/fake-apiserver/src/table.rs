//! Tables with the columns that kubectl prints for the real API server's objects.
use serde_json::{Value, json};

use crate::kinds::Kind;

/// One column: its title, and what stands in it.
type Column = (&'static str, fn(&Value) -> String);

const NAME: Column = ("Name", |object| text(object, "/metadata/name"));
const AGE: Column = ("Age", age);

/// A `meta.k8s.io/v1` Table of objects.
pub(crate) fn table(kind: &Kind, objects: &[Value], metadata: Option<Value>) -> Value {
    let columns = columns(kind);
    let definitions: Vec<Value> = columns
        .iter()
        .map(|(name, _)| {
            let format = if *name == "Name" { "name" } else { "" };
            json!({"name": name, "type": "string", "format": format, "description": "", "priority": 0})
        })
        .collect();
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let cells: Vec<String> = columns.iter().map(|(_, cell)| cell(object)).collect();
            let partial = json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]});
            json!({"cells": cells, "object": partial})
        })
        .collect();
    let metadata = metadata.unwrap_or_else(|| json!({}));
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": definitions, "rows": rows})
}

fn columns(kind: &Kind) -> Vec<Column> {
    match kind.resource {
        "resourceslices" => vec![
            NAME,
            ("Node", |object| text(object, "/spec/nodeName")),
            ("Driver", |object| text(object, "/spec/driver")),
            ("Pool", |object| text(object, "/spec/pool/name")),
            AGE,
        ],
        "resourceclaims" => vec![NAME, ("State", claim_state), AGE],
        "pods" => vec![
            NAME,
            ("Ready", pod_ready),
            ("Status", |object| text(object, "/status/phase")),
            ("Restarts", |_| "0".to_owned()),
            AGE,
        ],
        "nodes" => vec![
            NAME,
            ("Status", node_status),
            ("Roles", |_| "<none>".to_owned()),
            AGE,
            ("Version", |object| text(object, "/status/nodeInfo/kubeletVersion")),
        ],
        "events" => vec![
            ("Last Seen", age),
            ("Type", |object| text(object, "/type")),
            ("Reason", |object| text(object, "/reason")),
            ("Object", |object| {
                format!("{}/{}", text(object, "/regarding/kind").to_lowercase(), text(object, "/regarding/name"))
            }),
            ("Message", |object| text(object, "/note")),
        ],
        _ => vec![NAME, AGE],
    }
}

fn text(object: &Value, path: &str) -> String {
    object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// As kubectl writes a claim's state: what holds of it, in this order.
fn claim_state(claim: &Value) -> String {
    let holds = [
        ("deleted", claim.pointer("/metadata/deletionTimestamp").is_some()),
        ("allocated", claim.pointer("/status/allocation").is_some()),
        (
            "reserved",
            claim.pointer("/status/reservedFor").and_then(Value::as_array).is_some_and(|pods| !pods.is_empty()),
        ),
    ];
    let states: Vec<&str> = holds.iter().filter(|(_, holds)| *holds).map(|(state, _)| *state).collect();
    if claim.pointer("/status/allocation").is_none() && states.is_empty() {
        "pending".to_owned()
    } else {
        states.join(",")
    }
}

fn pod_ready(pod: &Value) -> String {
    let all = pod.pointer("/spec/containers").and_then(Value::as_array).map_or(0, Vec::len);
    let is_ready = |status: &&Value| status["ready"] == true;
    let ready = pod.pointer("/status/containerStatuses").and_then(Value::as_array);
    format!("{}/{all}", ready.map_or(0, |statuses| statuses.iter().filter(is_ready).count()))
}

fn node_status(node: &Value) -> String {
    let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
    let is_ready = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
    let ready = conditions.is_some_and(|conditions| conditions.iter().any(is_ready));
    if ready { "Ready" } else { "NotReady" }.to_owned()
}

/// The time since the creation in the largest whole unit, as `kubectl` abbreviates it.
fn age(object: &Value) -> String {
    let Ok(created) = text(object, "/metadata/creationTimestamp").parse::<jiff::Timestamp>() else {
        return "<unknown>".to_owned();
    };
    let seconds = (jiff::Timestamp::now().as_second() - created.as_second()).max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}
