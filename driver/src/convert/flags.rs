//! The device plugin's flags, of which few have a counterpart here, and its IMEX section.
use serde_json::{Map, Value};

use super::{
    config::Config,
    notes::{Faults, Notes},
    tree::{At, list, object, optional, switch, text, unknown},
};

const KNOWN: [&str; 12] = [
    "migStrategy",
    "failOnInitError",
    "mpsRoot",
    "nvidiaDriverRoot",
    "nvidiaDevRoot",
    "gdrcopyEnabled",
    "gdsEnabled",
    "mofedEnabled",
    "useNodeFeatureAPI",
    "deviceDiscoveryStrategy",
    "plugin",
    "gfd",
];
const PLUGIN: [&str; 7] = [
    "passDeviceSpecs",
    "deviceListStrategy",
    "deviceIDStrategy",
    "cdiAnnotationPrefix",
    "nvidiaCTKPath",
    "containerDriverRoot",
    "sharedDevicesAllocationPolicy",
];
const GFD: [&str; 5] = ["oneshot", "noTimestamp", "sleepInterval", "outputFile", "machineTypeFile"];

/// Takes over what can be, and says what can't.
pub(crate) fn read(fields: &Map<String, Value>, config: &mut Config, at: &At, notes: &mut Notes, faults: &mut Faults) {
    imex(fields, at, notes, faults);
    let Some(value) = optional(fields, "flags") else { return };
    let at = &at.field("flags");
    let Some(fields) = object(value, at, faults) else { return };
    unknown(fields, &KNOWN, at, notes);
    match text(fields, "migStrategy", at, faults) {
        None | Some("none" | "") => {}
        Some(strategy @ ("single" | "mixed")) => {
            config.mig_as_gpu = strategy == "single";
            notes.warn(
                at.field("migStrategy"),
                "MIG devices aren't converted: aliquot hands out whole GPUs and shares of them",
            );
        }
        Some(other) => faults.push(at.field("migStrategy"), format!("is {other:?}, but must be none, single or mixed")),
    }
    for (name, value) in [("nvidiaDriverRoot", "--driver-root"), ("nvidiaDevRoot", "--dev-root")] {
        if let Some(root) = text(fields, name, at, faults).filter(|root| !["", "/"].contains(root)) {
            notes.note(at.field(name), format!("is {root:?}: aliquot-driver run has {value} for that"));
        }
    }
    for name in ["gdrcopyEnabled", "gdsEnabled", "mofedEnabled"] {
        if switch(fields, name, at, faults) {
            notes.warn(at.field(name), "isn't converted: aliquot puts the GPU's own device nodes into containers");
        }
    }
    if let Some(value) = optional(fields, "plugin") {
        plugin(value, config, &at.field("plugin"), notes, faults);
    }
    if let Some(value) = optional(fields, "gfd") {
        let at = at.field("gfd");
        if let Some(fields) = object(value, &at, faults) {
            unknown(fields, &GFD, &at, notes);
        }
    }
    let idle = ["failOnInitError", "mpsRoot", "useNodeFeatureAPI", "deviceDiscoveryStrategy", "gfd"];
    let idle: Vec<&str> = idle.into_iter().filter(|name| optional(fields, name).is_some()).collect();
    if !idle.is_empty() {
        notes.note(at, format!("{}: nothing here needs it, and it is left out", idle.join(", ")));
    }
}

fn plugin(value: &Value, config: &mut Config, at: &At, notes: &mut Notes, faults: &mut Faults) {
    let Some(fields) = object(value, at, faults) else { return };
    unknown(fields, &PLUGIN, at, notes);
    match text(fields, "sharedDevicesAllocationPolicy", at, faults) {
        None | Some("distributed" | "") => {}
        Some("packed") => config.packed = true,
        Some(other) => {
            let at = at.field("sharedDevicesAllocationPolicy");
            faults.push(at, format!("is {other:?}, but must be distributed or packed"));
        }
    }
    let idle = PLUGIN.iter().filter(|name| **name != "sharedDevicesAllocationPolicy" && fields.contains_key(**name));
    let idle: Vec<&str> = idle.copied().collect();
    if !idle.is_empty() {
        notes.note(at, format!("{}: left out, as devices reach containers through CDI alone", idle.join(", ")));
    }
}

fn imex(fields: &Map<String, Value>, at: &At, notes: &mut Notes, faults: &mut Faults) {
    let Some(value) = optional(fields, "imex") else { return };
    let at = at.field("imex");
    let Some(fields) = object(value, &at, faults) else { return };
    unknown(fields, &["channelIDs", "required"], &at, notes);
    if !list(fields, "channelIDs", &at, faults).is_empty() {
        notes.warn(at.field("channelIDs"), "IMEX channels aren't converted: aliquot hands out none");
    }
}
