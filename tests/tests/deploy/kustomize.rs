//! As much of kustomize as the driver's DaemonSet in deploy/ needs: resources, components, images, and strategic merges. What
//! is changed of other objects is passed over.
use std::path::{Path, PathBuf};

use aliquot_tests::testbed::{Result, documents};
use serde_json::{Map, Value, json};

/// The manifests.
pub(crate) fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// The objects of a kustomization.
pub(crate) fn build(dir: &Path) -> Result<Vec<Value>> {
    let mut objects = Vec::new();
    apply(&mut objects, dir, "Kustomization")?;
    Ok(objects)
}

/// Adds a component to objects.
pub(crate) fn add(objects: &mut Vec<Value>, dir: &Path) -> Result<()> {
    apply(objects, dir, "Component")
}

fn apply(objects: &mut Vec<Value>, dir: &Path, kind: &str) -> Result<()> {
    let text = std::fs::read_to_string(dir.join("kustomization.yaml"))?;
    let own: Value = serde_saphyr::from_str(&text)?;
    if own["kind"] != kind {
        return Err(format!("{} is no {kind}", dir.display()).into());
    }
    let known =
        ["apiVersion", "kind", "resources", "components", "patches", "images", "replacements", "configMapGenerator"];
    if let Some(field) = own.as_object().into_iter().flat_map(Map::keys).find(|field| !known.contains(&field.as_str()))
    {
        return Err(format!("{}: {field} isn't known to this suite", dir.display()).into());
    }
    for resource in list(&own["resources"]) {
        let path = dir.join(resource.as_str().unwrap_or_default());
        if path.is_dir() {
            objects.extend(build(&path)?);
        } else {
            objects.extend(documents::<Value>(
                &std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?,
            )?);
        }
    }
    for generator in list(&own["configMapGenerator"]) {
        objects.push(config_map(dir, generator)?);
    }
    for component in list(&own["components"]) {
        add(objects, &dir.join(component.as_str().unwrap_or_default()))?;
    }
    for patch in list(&own["patches"]).filter(|patch| patch["target"]["kind"] == "DaemonSet") {
        let target = objects
            .iter_mut()
            .find(|object| object["kind"] == "DaemonSet" && object["metadata"]["name"] == patch["target"]["name"]);
        let target = target.ok_or_else(|| format!("{}: nothing is {}", dir.display(), patch["target"]))?;
        merge(target, &serde_saphyr::from_str::<Value>(patch["patch"].as_str().unwrap_or_default())?)?;
    }
    for patch in list(&own["patches"]) {
        let what: Value = serde_saphyr::from_str(patch["patch"].as_str().unwrap_or_default())?;
        if what["$patch"] == "delete" {
            objects.retain(|object| {
                (&object["kind"], &object["metadata"]["name"]) != (&what["kind"], &what["metadata"]["name"])
            });
        }
    }
    for image in list(&own["images"]) {
        for object in objects.iter_mut() {
            let Some(pod) = object.pointer_mut("/spec/template/spec").and_then(Value::as_object_mut) else { continue };
            let lists = ["containers", "initContainers"].map(|name| pod.get(name).cloned().map(|list| (name, list)));
            for (name, mut list) in lists.into_iter().flatten() {
                for container in list.as_array_mut().into_iter().flatten() {
                    if container["image"] == image["name"] {
                        let text = |field: &str| image[field].as_str().unwrap_or_default().to_owned();
                        container["image"] = format!("{}:{}", text("newName"), text("newTag")).into();
                    }
                }
                pod.insert(name.to_owned(), list);
            }
        }
    }
    Ok(())
}

/// By files alone, and without a suffix to its name.
fn config_map(dir: &Path, generator: &Value) -> Result<Value> {
    let options = &generator["options"];
    if options["disableNameSuffixHash"] != true {
        return Err(format!("{}: a ConfigMap whose name changes isn't known to this suite", dir.display()).into());
    }
    let mut data = Map::new();
    for file in list(&generator["files"]).filter_map(Value::as_str) {
        data.insert(file.to_owned(), std::fs::read_to_string(dir.join(file))?.into());
    }
    Ok(json!({"apiVersion": "v1", "kind": "ConfigMap", "data": data,
        "metadata": {"name": generator["name"], "namespace": generator["namespace"], "labels": options["labels"]}}))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// By which field elements of a list are the same (the API's patchMergeKey).
fn key(list: &str) -> Option<&'static str> {
    match list {
        "containers" | "initContainers" | "env" | "volumes" => Some("name"),
        "volumeMounts" => Some("mountPath"),
        _ => None,
    }
}

/// A strategic merge.
fn merge(target: &mut Value, change: &Value) -> Result<()> {
    let (Some(target), Some(change)) = (target.as_object_mut(), change.as_object()) else {
        return Err("objects are merged only with objects".into());
    };
    for (field, value) in change {
        let there = target.entry(field.clone()).or_insert(Value::Null);
        match (value, key(field)) {
            (Value::Object(_), _) if there.is_object() => merge(there, value)?,
            (Value::Array(elements), Some(key)) if there.is_array() => {
                let there = there.as_array_mut().ok_or("no list")?;
                for element in elements {
                    let at = there.iter().position(|one| one[key] == element[key]);
                    match (at, element["$patch"] == "delete") {
                        (Some(at), true) => drop(there.remove(at)),
                        (None, true) => return Err(format!("{field} has no {}", element[key]).into()),
                        (Some(at), false) => merge(&mut there[at], element)?,
                        (None, false) => there.push(element.clone()),
                    }
                }
            }
            _ => *there = value.clone(),
        }
    }
    Ok(())
}

/// With lists in an order of their own: kustomize's depends on what was merged.
pub(crate) fn sorted(mut value: Value) -> Value {
    match &mut value {
        Value::Array(elements) => {
            for element in elements.iter_mut() {
                *element = sorted(element.take());
            }
            elements.sort_by_key(ToString::to_string);
        }
        Value::Object(fields) => fields.values_mut().for_each(|field| *field = sorted(field.take())),
        _ => {}
    }
    value
}
