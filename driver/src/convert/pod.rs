//! Changes a pod's spec: claims in place of the device plugin's resources.
use serde_json::{Map, Value, json};

use super::{
    asks::{self, Ask},
    classes::Classes,
    leftovers,
    names::Names,
    notes::{Faults, Notes},
    templates::Templates,
    tree::{At, type_of},
};

/// Most requests that one claim may have.
const MOST_REQUESTS: usize = 32;

/// Where a pod's spec was found.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    /// The spec.
    pub(crate) at: At,
    /// The namespace, if it is written down.
    pub(crate) namespace: Option<&'a str>,
    /// The name of the object that holds it.
    pub(crate) owner: &'a str,
}

/// What all pods add to.
#[derive(Debug, Default)]
pub(crate) struct Made {
    /// Classes that requests name.
    pub(crate) classes: Classes,
    /// Templates that pods name.
    pub(crate) templates: Templates,
    /// What was chosen and lost.
    pub(crate) notes: Notes,
    /// What is wrong.
    pub(crate) faults: Faults,
}

/// A container, by its list and place in it.
type Slot = (&'static str, usize);
/// A request's name, and what it asks for.
type Request = (String, Ask);

/// Whether the spec was changed.
pub(crate) fn change(spec: &mut Map<String, Value>, place: &Place, names: &Names, made: &mut Made) -> bool {
    let before = spec.clone();
    let wishes = wishes(spec, place, names, made);
    if wishes.is_empty() {
        if *spec == before {
            leftovers::without_gpus(spec, &place.at, &mut made.notes);
        }
        return *spec != before;
    }
    let (requests, uses) = assign(&wishes, spec, place, made);
    if requests.len() > MOST_REQUESTS {
        made.faults.push(&place.at, format!("needs {} requests; a claim has {MOST_REQUESTS} at most", requests.len()));
        return false;
    }
    let (wanted, claim) = match requests.as_slice() {
        [(_, only)] => (only.label.clone(), "gpu"),
        _ => (format!("{}-gpus", place.owner.get(..200).unwrap_or(place.owner)), "gpus"),
    };
    let template = made.templates.name(place.namespace, &wanted, &requests);
    let Some(claim) = add_claim(spec, claim, &template, place, &mut made.faults) else { return false };
    made.notes.note(&place.at, format!("its GPUs come from ResourceClaimTemplate {template}"));
    for (slot, index) in uses {
        let Some(container) = container(spec, slot) else { continue };
        let mut entry = json!({"name": claim});
        if let (Some((request, _)), Some(fields), true) =
            (requests.get(index), entry.as_object_mut(), requests.len() > 1)
        {
            fields.insert("request".to_owned(), json!(request));
        }
        let resources = container.entry("resources").or_insert_with(|| json!({}));
        let Some(resources) = resources.as_object_mut() else { continue };
        match resources.entry("claims").or_insert_with(|| json!([])) {
            Value::Array(claims) => claims.push(entry),
            other => {
                let at = place.at.field(slot.0).item(slot.1).field("resources").field("claims");
                made.faults.push(at, format!("is {}, but must be a list", type_of(other)));
            }
        }
    }
    leftovers::with_gpus(spec, &place.at, &mut made.notes);
    true
}

/// What each container asks for, taken out of it.
fn wishes(spec: &mut Map<String, Value>, place: &Place, names: &Names, made: &mut Made) -> Vec<(Slot, Vec<Ask>)> {
    let mut all = Vec::new();
    for list in ["containers", "initContainers"] {
        let at = place.at.field(list);
        let items = match spec.get_mut(list) {
            None | Some(Value::Null) => continue,
            Some(Value::Array(items)) => items,
            Some(other) => {
                made.faults.push(at, format!("is {}, but must be a list", type_of(other)));
                continue;
            }
        };
        for (index, item) in items.iter_mut().enumerate() {
            let at = at.item(index);
            let Some(container) = item.as_object_mut() else {
                made.faults.push(at, format!("is {}, but must be an object", type_of(item)));
                continue;
            };
            let asks = asks::take(container, names, &mut made.classes, &at, &mut made.notes, &mut made.faults);
            if !asks.is_empty() {
                all.push(((list, index), asks));
            }
        }
    }
    all
}

/// The claim's requests, and which container uses which of them.
///
/// An init container has ended before the others start, so the device plugin gave it what a later container got. It uses
/// the same request if there is an equal one.
fn assign(
    wishes: &[(Slot, Vec<Ask>)],
    spec: &mut Map<String, Value>,
    place: &Place,
    made: &mut Made,
) -> (Vec<Request>, Vec<(Slot, usize)>) {
    let mut requests: Vec<(String, Ask)> = Vec::new();
    let mut uses = Vec::new();
    let passing: Vec<bool> = wishes.iter().map(|(slot, _)| is_passing(spec, *slot)).collect();
    for turn in [false, true] {
        for ((slot, asks), _) in wishes.iter().zip(&passing).filter(|(_, passing)| **passing == turn) {
            let at = place.at.field(slot.0).item(slot.1);
            let name = container(spec, *slot).and_then(|fields| fields.get("name")?.as_str().map(str::to_owned));
            let Some(name) = name.filter(|name| !name.is_empty()) else {
                made.faults.push(at, "has no name");
                continue;
            };
            let mut taken: Vec<usize> = Vec::new();
            for ask in asks {
                let free = |(index, (_, other)): &(usize, &(String, Ask))| other == ask && !taken.contains(index);
                let same = requests.iter().enumerate().find(|entry| turn && free(entry)).map(|(index, _)| index);
                let index = same.unwrap_or_else(|| {
                    requests.push((request_name(&requests, &name), ask.clone()));
                    requests.len() - 1
                });
                if same.is_some() {
                    made.notes.note(&at, "runs before the others and uses the same GPU as one of them, as before");
                } else if turn && !passing.iter().all(|passing| *passing) {
                    made.notes.warn(
                        &at,
                        "asks for something else than the containers after it; the device plugin would lend it theirs, a \
                         claim holds both for as long as the pod lives",
                    );
                }
                taken.push(index);
                uses.push((*slot, index));
            }
        }
    }
    if let [(name, _)] = requests.as_mut_slice() {
        "gpu".clone_into(name);
    }
    (requests, uses)
}

/// Whether a container ends before the pod's others start.
fn is_passing(spec: &mut Map<String, Value>, slot: Slot) -> bool {
    let restart = container(spec, slot).and_then(|fields| fields.get("restartPolicy")?.as_str().map(str::to_owned));
    slot.0 == "initContainers" && restart.as_deref() != Some("Always")
}

/// A container's name, and a number where it has several requests; a DNS label.
fn request_name(requests: &[(String, Ask)], container: &str) -> String {
    let stem = container.get(..58).unwrap_or(container).trim_end_matches('-');
    let mut name = stem.to_owned();
    let mut number = 2;
    while requests.iter().any(|(other, _)| *other == name) {
        name = format!("{stem}-{number}");
        number += 1;
    }
    name
}

/// Adds the claim under a name that is free.
fn add_claim(
    spec: &mut Map<String, Value>,
    wanted: &str,
    template: &str,
    place: &Place,
    faults: &mut Faults,
) -> Option<String> {
    let claims = spec.entry("resourceClaims").or_insert_with(|| json!([]));
    if claims.is_null() {
        *claims = json!([]);
    }
    let Some(claims) = claims.as_array_mut() else {
        faults.push(place.at.field("resourceClaims"), "must be a list");
        return None;
    };
    let mut name = wanted.to_owned();
    let mut number = 2;
    while claims.iter().any(|claim| claim.get("name").and_then(Value::as_str) == Some(&name)) {
        name = format!("{wanted}-{number}");
        number += 1;
    }
    claims.push(json!({"name": name, "resourceClaimTemplateName": template}));
    Some(name)
}

fn container(spec: &mut Map<String, Value>, slot: Slot) -> Option<&mut Map<String, Value>> {
    spec.get_mut(slot.0)?.get_mut(slot.1)?.as_object_mut()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(mut spec: Value) -> (Value, Vec<Value>, Vec<String>, String) {
        let mut made = Made::default();
        let place = Place { at: At::file("p"), namespace: None, owner: "web" };
        change(spec.as_object_mut().unwrap(), &place, &Names::default(), &mut made);
        let notes = made.notes.into_vec().iter().map(ToString::to_string).collect();
        (spec, made.templates.manifests(), notes, made.faults.to_string())
    }

    fn asking(name: &str, gpus: &Value) -> Value {
        json!({"name": name, "resources": {"limits": {"nvidia.com/gpu": gpus}}})
    }

    #[test]
    fn one_container_needs_no_request_name() {
        let (spec, templates, _, faults) = changed(json!({"containers": [asking("main", &json!("2"))]}));
        assert!(faults.is_empty(), "{faults}");
        assert_eq!(spec["containers"][0]["resources"], json!({"claims": [{"name": "gpu"}]}));
        assert_eq!(spec["resourceClaims"], json!([{"name": "gpu", "resourceClaimTemplateName": "nvidia-gpu-x2"}]));
        let exactly = json!({"deviceClassName": "gpu.aliquot.dev", "count": 2});
        assert_eq!(templates[0]["spec"]["spec"]["devices"]["requests"], json!([{"name": "gpu", "exactly": exactly}]));
    }

    #[test]
    fn two_containers_have_a_request_each() {
        let containers = [asking("left", &json!(1)), asking("right", &json!(1)), json!({"name": "none"})];
        let (spec, templates, _, _) = changed(json!({"containers": containers}));
        assert_eq!(spec["containers"][0]["resources"]["claims"], json!([{"name": "gpus", "request": "left"}]));
        assert_eq!(spec["containers"][1]["resources"]["claims"], json!([{"name": "gpus", "request": "right"}]));
        assert_eq!(spec["containers"][2], json!({"name": "none"}));
        assert_eq!(templates[0]["metadata"]["name"], "web-gpus");
        assert_eq!(templates[0]["spec"]["spec"]["devices"]["requests"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn an_init_container_uses_the_request_of_one_that_runs_after_it() {
        let spec = json!({"containers": [asking("main", &json!(1))], "initContainers": [asking("warm-up", &json!(1))]});
        let (spec, templates, notes, _) = changed(spec);
        assert_eq!(spec["initContainers"][0]["resources"]["claims"], json!([{"name": "gpu"}]));
        assert_eq!(templates[0]["spec"]["spec"]["devices"]["requests"].as_array().unwrap().len(), 1);
        assert!(notes.iter().any(|note| note.contains("as before")), "{notes:?}");

        let mut sidecar = asking("sidecar", &json!(1));
        sidecar["restartPolicy"] = json!("Always");
        let spec =
            json!({"containers": [asking("main", &json!(1))], "initContainers": [sidecar, asking("odd", &json!(2))]});
        let (spec, _, notes, _) = changed(spec);
        assert_eq!(spec["initContainers"][0]["resources"]["claims"], json!([{"name": "gpus", "request": "sidecar"}]));
        assert_eq!(spec["initContainers"][1]["resources"]["claims"], json!([{"name": "gpus", "request": "odd"}]));
        assert!(notes.iter().any(|note| note.contains("something else")), "{notes:?}");
    }

    #[test]
    fn what_else_a_pod_has_stays() {
        let resources = json!({"claims": [{"name": "net"}], "limits": {"cpu": "2", "nvidia.com/gpu": 1},
            "requests": {"nvidia.com/gpu": 1}});
        let spec = json!({"resourceClaims": [{"name": "gpu", "resourceClaimName": "mine"}], "odd": {"kept": null},
            "containers": [{"name": "main", "resources": resources, "x-unknown": [1, 2.5]}]});
        let (spec, _, _, _) = changed(spec);
        let container = json!({"name": "main", "x-unknown": [1, 2.5],
            "resources": {"claims": [{"name": "net"}, {"name": "gpu-2"}], "limits": {"cpu": "2"}}});
        assert_eq!(spec["containers"][0], container);
        assert_eq!(spec["odd"], json!({"kept": null}));
        assert_eq!(spec["resourceClaims"][1]["name"], "gpu-2");
    }

    #[test]
    fn odd_pods_are_faults_with_their_places() {
        for (spec, words) in [
            (json!({"containers": {}}), "containers: is an object"),
            (json!({"containers": [3]}), "containers[0]: is a number"),
            (json!({"containers": [{"resources": []}]}), "resources: is a list"),
            (json!({"containers": [asking("x", &json!("1Gi"))]}), "limits[\"nvidia.com/gpu\"]: isn't a whole number"),
            (json!({"containers": [asking("x", &json!(-1))]}), "isn't a whole number"),
            (json!({"containers": [asking("x", &json!(99999))]}), "1024"),
            (json!({"containers": [asking("", &json!(1))]}), "has no name"),
            (json!({"containers": [asking("x", &json!(1))], "resourceClaims": 1}), "resourceClaims"),
        ] {
            let (_, _, _, faults) = changed(spec.clone());
            assert!(faults.contains(words), "{spec}: {faults}");
        }
        let both = json!({"limits": {"nvidia.com/gpu": 1}, "requests": {"nvidia.com/gpu": 2}});
        let (_, _, _, faults) = changed(json!({"containers": [{"name": "x", "resources": both}]}));
        assert!(faults.contains("limited to 1 and requested as 2"), "{faults}");
    }

    #[test]
    fn what_isnt_converted_stays_with_a_warning() {
        let limits = json!({"nvidia.com/mig-1g.5gb": 1, "cpu": 1});
        let before = json!({"containers": [{"name": "x", "resources": {"limits": limits}}]});
        let (spec, templates, notes, _) = changed(before.clone());
        assert!(spec == before && templates.is_empty() && notes[0].contains("MIG"), "{notes:?}");
    }
}
