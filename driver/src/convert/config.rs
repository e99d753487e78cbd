//! A configuration of NVIDIA's device plugin, as far as aliquot has something in its place.
use serde_json::{Map, Value};

use super::{
    devices::{self, Devices},
    flags,
    notes::{Faults, Notes},
    tree::{At, list, object, optional, switch, text, type_of, unknown},
};

/// The most shares that a GPU can have here.
pub(crate) const MOST_SHARES: u64 = aliquot_params::policy::MOST_SHARES as u64;
/// What the device plugin puts before each resource's name.
pub(crate) const PREFIX: &str = "nvidia.com/";
/// What it calls GPUs that no pattern names.
pub(crate) const GPU: &str = "nvidia.com/gpu";
/// What renamed resources end with.
pub(crate) const SHARED: &str = ".shared";
/// The fields of a configuration.
pub(crate) const FIELDS: [&str; 5] = ["version", "flags", "resources", "sharing", "imex"];

/// One configuration.
#[derive(Debug, Clone, Default)]
pub(crate) struct Config {
    /// The `ConfigMap`'s key; empty for one that is a file by itself.
    pub(crate) name: String,
    /// Which GPUs are which resource; the first that matches decides, and all others are `nvidia.com/gpu`.
    pub(crate) patterns: Vec<Pattern>,
    /// What is time-sliced.
    pub(crate) slicing: Vec<Slicing>,
    /// Whether a container that asks for more than one replica is refused.
    pub(crate) one_only: bool,
    /// Whether shares go to the GPU that has most of them already.
    pub(crate) packed: bool,
    /// Names of resources that MPS shares.
    pub(crate) mps: Vec<String>,
    /// Whether `nvidia.com/gpu` is a MIG device on GPUs in MIG mode.
    pub(crate) mig_as_gpu: bool,
}

/// GPUs by product name.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    /// `*` stands for any text.
    pub(crate) glob: String,
    /// With the prefix.
    pub(crate) resource: String,
}

/// One time-sliced resource.
#[derive(Debug, Clone)]
pub(crate) struct Slicing {
    /// Its name before any renaming.
    pub(crate) resource: String,
    /// What pods may call its replicas: as the file has it, and as the device plugin's releases do.
    pub(crate) names: Vec<String>,
    /// How many replicas of each GPU.
    pub(crate) replicas: u64,
    /// Which GPUs.
    pub(crate) devices: Devices,
}

/// Reads one configuration.
pub(crate) fn decode(name: &str, value: &Value, at: &At, notes: &mut Notes, faults: &mut Faults) -> Config {
    let mut config = Config { name: name.to_owned(), ..Config::default() };
    let Some(fields) = object(value, at, faults) else { return config };
    if !fields.is_empty() && !FIELDS.iter().any(|name| fields.contains_key(*name)) {
        faults.push(
            at,
            "isn't a configuration of NVIDIA's device plugin: it has none of version, flags, resources, sharing",
        );
        return config;
    }
    unknown(fields, &FIELDS, at, notes);
    if let Some(version) = text(fields, "version", at, faults)
        && !["", "v1"].contains(&version)
    {
        faults.push(at.field("version"), format!("is {version:?}; only v1 is known"));
    }
    flags::read(fields, &mut config, at, notes, faults);
    resources(fields, &mut config, at, notes, faults);
    sharing(fields, &mut config, at, notes, faults);
    config
}

fn resources(fields: &Map<String, Value>, config: &mut Config, at: &At, notes: &mut Notes, faults: &mut Faults) {
    let Some(value) = optional(fields, "resources") else { return };
    let at = at.field("resources");
    let Some(fields) = object(value, &at, faults) else { return };
    unknown(fields, &["gpus", "mig", "migs"], &at, notes);
    for name in ["mig", "migs"] {
        if !list(fields, name, &at, faults).is_empty() {
            notes.warn(at.field(name), "MIG devices aren't converted: aliquot hands out whole GPUs and shares of them");
        }
    }
    for (index, value) in list(fields, "gpus", &at, faults).iter().enumerate() {
        let at = at.field("gpus").item(index);
        let Some(fields) = object(value, &at, faults) else { continue };
        unknown(fields, &["pattern", "name"], &at, notes);
        let glob = text(fields, "pattern", &at, faults).map(str::to_owned);
        if glob.is_none() && optional(fields, "pattern").is_none() {
            faults.push(at.field("pattern"), "is missing");
        }
        if let (Some(glob), Some(resource)) = (glob, resource_name(fields, "name", true, &at, faults)) {
            config.patterns.push(Pattern { glob, resource });
        }
    }
    if !config.patterns.is_empty() {
        notes.warn(
            at.field("gpus"),
            "NVIDIA's releases ignore these patterns and call every GPU nvidia.com/gpu; here they take effect",
        );
    }
}

fn sharing(fields: &Map<String, Value>, config: &mut Config, at: &At, notes: &mut Notes, faults: &mut Faults) {
    let Some(value) = optional(fields, "sharing") else { return };
    let at = at.field("sharing");
    let Some(fields) = object(value, &at, faults) else { return };
    unknown(fields, &["timeSlicing", "mps"], &at, notes);
    if let Some(value) = optional(fields, "timeSlicing") {
        let (slicing, one_only) = replicated(value, &at.field("timeSlicing"), notes, faults);
        for one in slicing {
            if one.resource.starts_with("nvidia.com/mig-") {
                notes.warn(
                    at.field("timeSlicing"),
                    format!(
                        "{} is a MIG device, and isn't converted: pods that ask for it stay as they are",
                        one.resource
                    ),
                );
            } else if one.resource != GPU && !config.patterns.iter().any(|pattern| pattern.resource == one.resource) {
                notes.warn(
                    at.field("timeSlicing"),
                    format!("no pattern in resources.gpus makes a GPU {}; its entry has no effect", one.resource),
                );
            } else {
                config.slicing.push(one);
            }
        }
        config.one_only = one_only;
    }
    if let Some(value) = optional(fields, "mps") {
        let (slicing, _) = replicated(value, &at.field("mps"), &mut Notes::default(), faults);
        config.mps = slicing.into_iter().flat_map(|one| one.names).collect();
        notes.warn(
            at.field("mps"),
            "MPS isn't converted: its GPUs stay whole, and pods that ask for what it shares stay as they are; the nearest \
             thing here is shares, which are time-sliced",
        );
        if optional(fields, "timeSlicing").is_some() {
            notes.warn(
                &at,
                "has timeSlicing and mps, of which the device plugin uses mps only; both are dealt with here",
            );
        }
    }
}

/// The resources below `timeSlicing` or `mps`, and whether more than one of them is refused.
fn replicated(value: &Value, at: &At, notes: &mut Notes, faults: &mut Faults) -> (Vec<Slicing>, bool) {
    let Some(fields) = object(value, at, faults) else { return (Vec::new(), false) };
    unknown(fields, &["renameByDefault", "failRequestsGreaterThanOne", "resources"], at, notes);
    let rename = switch(fields, "renameByDefault", at, faults);
    let one_only = switch(fields, "failRequestsGreaterThanOne", at, faults);
    let items = list(fields, "resources", at, faults);
    if items.is_empty() {
        faults.push(at.field("resources"), "names no resource; the device plugin refuses that, too");
    }
    let mut all: Vec<Slicing> = Vec::new();
    for (index, value) in items.iter().enumerate() {
        let at = at.field("resources").item(index);
        let Some(one) = one(value, rename, &at, notes, faults) else { continue };
        let is_covered = |other: &&Slicing| other.resource == one.resource && other.devices == Devices::All;
        if all.iter().find(is_covered).is_some() {
            faults.push(&at, format!("all GPUs of {} are time-sliced by an entry before it", one.resource));
        }
        all.push(one);
    }
    (all, one_only)
}

fn one(value: &Value, rename: bool, at: &At, notes: &mut Notes, faults: &mut Faults) -> Option<Slicing> {
    let fields = object(value, at, faults)?;
    unknown(fields, &["name", "rename", "devices", "replicas"], at, notes);
    let resource = resource_name(fields, "name", true, at, faults);
    let renamed = resource_name(fields, "rename", false, at, faults);
    let devices = devices::decode(optional(fields, "devices"), &at.field("devices"), notes, faults);
    let replicas = replicas(fields, at, faults);
    let resource = resource?;
    let released = if rename { format!("{resource}{SHARED}") } else { resource.clone() };
    let mut names = vec![released.clone()];
    if let Some(renamed) = renamed.filter(|name| *name != released) {
        notes.warn(
            at.field("rename"),
            format!("NVIDIA's releases ignore it and say {released}; pods that ask for either name are converted"),
        );
        names.insert(0, renamed);
    }
    Some(Slicing { resource, names, replicas: replicas?, devices: devices? })
}

fn replicas(fields: &Map<String, Value>, at: &At, faults: &mut Faults) -> Option<u64> {
    let at = at.field("replicas");
    let Some(value) = optional(fields, "replicas") else {
        faults.push(at, "is missing");
        return None;
    };
    match value.as_i64() {
        None => faults.push(at, format!("is {}, but must be a whole number", type_of(value))),
        Some(number) if number < 2 => {
            faults.push(at, format!("is {number}, but must be 2 or more; the device plugin refuses less, too"));
        }
        Some(number) => match number.try_into() {
            Ok(number) if number <= MOST_SHARES => return Some(number),
            _ => faults.push(at, format!("is {number}; a GPU has {MOST_SHARES} shares at most here")),
        },
    }
    None
}

/// A resource's name with the prefix, as the device plugin completes and checks it.
fn resource_name(
    fields: &Map<String, Value>,
    name: &str,
    is_needed: bool,
    at: &At,
    faults: &mut Faults,
) -> Option<String> {
    if is_needed && optional(fields, name).is_none() {
        faults.push(at.field(name), "is missing");
    }
    let given = text(fields, name, at, faults)?;
    let short = given.strip_prefix(PREFIX).unwrap_or(given);
    let is_end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let is_label = |label: &str| {
        is_end(label.chars().next())
            && is_end(label.chars().last())
            && label.chars().all(|c| is_end(Some(c)) || c == '-')
    };
    if PREFIX.len() + short.len() > 63 || !short.split('.').all(is_label) {
        let reason = format!("is {given:?}, which is no name of a resource: a DNS name of at most 63 with nvidia.com/");
        faults.push(at.field(name), reason);
        return None;
    }
    Some(format!("{PREFIX}{short}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::tree::documents;

    fn decoded(text: &str) -> (Config, Vec<String>, String) {
        let at = At::file("c");
        let (mut notes, mut faults) = (Notes::default(), Faults::default());
        let value = documents(&at, text).unwrap().remove(0);
        let config = decode("", &value, &at, &mut notes, &mut faults);
        (config, notes.into_vec().iter().map(ToString::to_string).collect(), faults.to_string())
    }

    #[test]
    fn replicas_below_two_are_refused_as_by_the_device_plugin() {
        for (replicas, word) in [
            ("1", "2 or more"),
            ("-3", "2 or more"),
            ("many", "a text"),
            ("2.5", "a number"),
            ("129", "128"),
            ("", "missing"),
        ] {
            let text = format!("sharing: {{timeSlicing: {{resources: [{{name: gpu, replicas: {replicas}}}]}}}}");
            let (_, _, faults) = decoded(&text);
            assert!(
                faults.contains("c: sharing.timeSlicing.resources[0].replicas") && faults.contains(word),
                "{faults}"
            );
        }
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let (_, _, faults) =
            decoded("version: v2\nflags: 3\nresources: {gpus: [{name: A_B}]}\nsharing: {timeSlicing: {}}");
        for part in ["version", "flags", "pattern", "A_B", "sharing.timeSlicing.resources"] {
            assert!(faults.contains(part), "{part}: {faults}");
        }
        assert_eq!(faults.lines().count(), 5, "{faults}");
    }

    #[test]
    fn names_follow_the_renaming() {
        let with = |rest: &str| {
            let (config, notes, faults) = decoded(&format!("sharing: {{timeSlicing: {{{rest}}}}}"));
            assert!(faults.is_empty(), "{faults}");
            (config.slicing[0].names.join(" "), notes.len())
        };
        assert_eq!(with("resources: [{name: nvidia.com/gpu, replicas: 4}]"), ("nvidia.com/gpu".into(), 0));
        let (names, notes) = with("renameByDefault: true, resources: [{name: gpu, replicas: 4}]");
        assert_eq!((names.as_str(), notes), ("nvidia.com/gpu.shared", 0));
        let (names, notes) = with("resources: [{name: gpu, rename: slice, replicas: 4}]");
        assert_eq!((names.as_str(), notes), ("nvidia.com/slice nvidia.com/gpu", 1));
    }

    #[test]
    fn what_has_no_counterpart_is_warned_of_by_its_path() {
        let text = "
            version: v1
            colour: blue
            flags: {migStrategy: mixed, gdsEnabled: true, plugin: {passDeviceSpecs: true, fast: 1}}
            imex: {channelIDs: [0]}
            resources: {gpus: [{pattern: '*A100*', name: a100}], migs: [{pattern: 1g.5gb, name: small}]}
            sharing:
              timeSlicing: {resources: [{name: mig-1g.5gb, replicas: 2}, {name: v100, replicas: 2}]}
              mps: {resources: [{name: gpu, replicas: 2}]}";
        let (config, notes, faults) = decoded(text);
        assert!(faults.is_empty() && config.slicing.is_empty() && config.mps == ["nvidia.com/gpu"], "{faults}");
        for part in [
            "c: colour: is no field",
            "flags.migStrategy",
            "flags.gdsEnabled",
            "flags.plugin.fast: is no field",
            "imex.channelIDs",
            "resources.gpus",
            "resources.migs",
            "mig-1g.5gb is a MIG",
            "nvidia.com/v100",
            "sharing.mps",
            "mps only",
        ] {
            assert!(
                notes.iter().any(|note| note.starts_with("warning: ") && note.contains(part)),
                "{part}: {notes:#?}"
            );
        }
    }

    #[test]
    fn what_is_no_configuration_is_refused() {
        for text in ["- a", "just text", "kind: Pod", "replicas: 10"] {
            let (_, _, faults) = decoded(text);
            assert!(faults.starts_with("error: c: is"), "{faults}");
        }
    }
}
