//! For pods that stay as they are: classes whose extended resource name is what they ask for.
use serde_json::{Map, Value};

use super::{
    asks::take,
    config::GPU,
    names::{Device, Form, Meaning, Names},
    pod::{Made, Place},
};

/// A class for each name; a name has one in a cluster, so the default configuration decides.
pub(crate) fn classes(default: &Names, all: &[(String, Names)], made: &mut Made) {
    let mut chosen: Vec<(&String, &Device)> = Vec::new();
    for (name, meaning) in default.iter().chain(all.iter().flat_map(|(_, names)| names.iter())) {
        let Meaning::Device(device) = meaning else { continue };
        match chosen.iter().find(|(known, _)| *known == name) {
            None => chosen.push((name, device)),
            Some((_, known)) if known.expression() == device.expression() => {}
            Some(_) => made.notes.warn(
                "",
                format!(
                    "{name} means different things in the configurations, and a name can have one class in a cluster: the \
                     default configuration decides"
                ),
            ),
        }
    }
    for (name, device) in chosen {
        if device.form == Form::Whole && device.region.is_none() && name == GPU {
            made.notes.note("", format!("for whole GPUs as {name}, apply deploy/overlays/extended-resource"));
        } else {
            made.classes.extend(name, device);
        }
    }
}

/// Warns of pods that stay as they are and ask for several shares at once.
pub(crate) fn several(spec: &Map<String, Value>, place: &Place, names: &Names, made: &mut Made) {
    for list in ["containers", "initContainers"] {
        for (index, container) in spec.get(list).and_then(Value::as_array).into_iter().flatten().enumerate() {
            let at = place.at.field(list).item(index);
            let Some(mut copy) = container.as_object().cloned() else { continue };
            let mut unheard = Made::default();
            let asks = take(&mut copy, names, &mut unheard.classes, &at, &mut unheard.notes, &mut made.faults);
            if asks
                .iter()
                .any(|ask| ask.shares.is_some_and(|shares| shares > 1) || (ask.shares.is_some() && ask.count > 1))
            {
                made.notes.warn(at, "asks for several shares: each is a device by itself, and they may be of one GPU");
            }
        }
    }
}
