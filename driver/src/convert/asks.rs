//! What a container asks the device plugin for, and the request that takes its place.
use serde_json::{Map, Value};

use super::{
    classes::Classes,
    names::{Device, Form, Meaning, Names, dashed_plain},
    notes::{Faults, Notes, counted},
    tree::{At, type_of},
};

/// The most GPUs that one claim is given.
const MOST: u64 = 1024;

/// One request of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ask {
    /// The DeviceClass.
    pub(crate) class: String,
    /// How many devices.
    pub(crate) count: u64,
    /// How many shares of each; none for whole GPUs.
    pub(crate) shares: Option<u64>,
    /// What a template with only this request is called.
    pub(crate) label: String,
}

/// Takes a container's requests out of its resources.
///
/// Leaves what isn't converted, and says so.
pub(crate) fn take(
    container: &mut Map<String, Value>,
    names: &Names,
    classes: &mut Classes,
    at: &At,
    notes: &mut Notes,
    faults: &mut Faults,
) -> Vec<Ask> {
    let at = &at.field("resources");
    let Some(resources) = container.get_mut("resources").filter(|value| !value.is_null()) else { return Vec::new() };
    let Some(resources) = resources.as_object_mut() else {
        faults.push(at, format!("is {}, but must be an object", type_of(resources)));
        return Vec::new();
    };
    let mut asks = Vec::new();
    for name in asked(resources) {
        let device = match names.meaning(&name) {
            None => continue,
            Some(Meaning::Left(why)) => {
                notes.warn(at, format!("{name} stays as it is: {why}"));
                continue;
            }
            Some(Meaning::Device(device)) => device,
        };
        let limit = quantity(resources, "limits", &name, at, faults);
        let request = quantity(resources, "requests", &name, at, faults);
        if let (Some(limit), Some(request)) = (limit, request)
            && limit != request
        {
            faults.push(
                at,
                format!("{name} is limited to {limit} and requested as {request}; the API server refuses that"),
            );
        }
        remove(resources, "limits", &name);
        remove(resources, "requests", &name);
        match limit.or(request) {
            None => {}
            Some(0) => notes.note(at, format!("{name}: 0 is removed")),
            Some(number) if number > MOST => faults.push(at, format!("{name} is {number}; {MOST} is the most")),
            Some(number) => asks.push(ask(&name, number, &device, classes, at, notes)),
        }
    }
    asks
}

/// The resources of NVIDIA's that a container names, in order.
fn asked(resources: &Map<String, Value>) -> Vec<String> {
    let maps = ["limits", "requests"].into_iter().filter_map(|name| resources.get(name)?.as_object());
    let names: std::collections::BTreeSet<&String> = maps.flat_map(Map::keys).collect();
    names.into_iter().cloned().collect()
}

fn quantity(resources: &Map<String, Value>, map: &str, name: &str, at: &At, faults: &mut Faults) -> Option<u64> {
    let value = resources.get(map)?.get(name)?;
    let number = match value {
        Value::String(text) => text.parse().ok(),
        other => other.as_u64(),
    };
    if number.is_none() {
        faults.push(at.field(map).field(name), "isn't a whole number, as extended resources are");
    }
    number
}

/// Removes an entry, and its map if that was all.
fn remove(resources: &mut Map<String, Value>, map: &str, name: &str) {
    let Some(entries) = resources.get_mut(map).and_then(Value::as_object_mut) else { return };
    if entries.remove(name).is_some() && entries.is_empty() {
        resources.remove(map);
    }
}

fn ask(name: &str, number: u64, device: &Device, classes: &mut Classes, at: &At, notes: &mut Notes) -> Ask {
    let class = classes.of(device);
    if let Some(remark) = &device.remark {
        notes.warn(at, format!("{name}: {remark}"));
    }
    let label = dashed_plain(&device.resource);
    let times = if number == 1 { String::new() } else { format!("-x{number}") };
    match device.form {
        Form::Whole => {
            let gpus = counted(number, "whole GPU", "whole GPUs");
            notes.note(at, format!("{name}: {number} becomes {gpus} of class {class}"));
            Ask { class, count: number, shares: None, label: format!("{label}{times}") }
        }
        Form::Share => {
            let (count, shares) = split(number, device.replicas);
            let what = counted(shares, "part", "parts");
            notes.note(at, format!("{name}: {number} becomes {what} of {} (class {class})", gpus(count)));
            if number > 1 && device.one_only {
                notes.warn(
                    at,
                    format!(
                        "{name}: {number} is refused by the device plugin (failRequestsGreaterThanOne), so this never ran; here \
                         it gets {what} of {}: ask for one if access is all that it needs",
                        gpus(count)
                    ),
                );
            } else if number > 1 {
                notes.warn(
                    at,
                    format!(
                        "{name}: {number} replicas could be of one GPU or of several, and promised access only; {what} of {} \
                         are memory and a place that no one else gets",
                        gpus(count)
                    ),
                );
            }
            if count > 1 {
                let replicas = device.replicas.unwrap_or_default();
                notes.warn(
                    at,
                    format!(
                        "{name}: {number} is more than the {replicas} that a GPU has, so it asks for {count} GPUs, rounded up to \
                         equal parts"
                    ),
                );
            }
            Ask { class, count, shares: Some(shares), label: format!("{label}-share{times}") }
        }
    }
}

fn gpus(count: u64) -> String {
    if count == 1 { "one GPU".to_owned() } else { format!("each of {count} GPUs") }
}

/// How many GPUs, and how many parts of each: as few GPUs as possible, and equal parts of each.
///
/// Two such parts don't fit into one GPU, so the scheduler must take different ones.
fn split(number: u64, replicas: Option<u64>) -> (u64, u64) {
    let count = replicas.map_or(1, |replicas| number.div_ceil(replicas.max(1)));
    (count, number.div_ceil(count.max(1)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parts_of_several_gpus_never_fit_into_one(number in 1..2000_u64, replicas in 2..=128_u64) {
            let (count, shares) = split(number, Some(replicas));
            prop_assert!(shares <= replicas && count * shares >= number);
            prop_assert!(count == 1 || 2 * shares > replicas, "{number} of {replicas}: {count} x {shares}");
        }
    }
}
