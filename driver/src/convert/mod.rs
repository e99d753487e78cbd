//! `aliquot-driver convert`: from NVIDIA's device plugin with time slicing to policies, classes and claims.
//!
//! [`convert`] is pure; reading and writing files is [`edge`]'s. A `ConfigMap` key is a configuration's name, and label
//! `nvidia.com/device-plugin.config` says on which nodes it is in use.
mod asks;
mod classes;
mod config;
mod devices;
mod edge;
mod flags;
mod glob;
mod keep;
mod leftovers;
mod live;
mod names;
mod notes;
mod pod;
mod policy;
mod source;
mod templates;
mod tree;
mod workload;
mod write;

use std::fmt::Write as _;

use serde_json::{Map, Value};

pub(crate) use edge::run;

use self::{
    config::Config,
    names::{Meaning, Names},
    notes::{Fault, Faults, Note, Notes, one_line},
    pod::{Made, Place},
    tree::At,
    workload::Visitor,
};

/// A file's name and text.
#[derive(Debug, Clone)]
pub(crate) struct Input {
    /// As messages name it.
    pub(crate) name: String,
    /// What is in it.
    pub(crate) text: String,
}

/// What is converted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Inputs {
    /// The device plugin's configuration, or a `ConfigMap` of them.
    pub(crate) config: Option<Input>,
    /// Which of several is in use on nodes without a label.
    pub(crate) default_config: Option<String>,
    /// Manifests with pods.
    pub(crate) pods: Vec<Input>,
    /// Whether pods stay as they are, and get GPUs through classes.
    pub(crate) keep_pods: bool,
}

/// One file of the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    /// Without any directory.
    pub(crate) name: String,
    /// YAML.
    pub(crate) text: String,
    /// Whether the API server takes it; a bare policy file is for the driver only.
    pub(crate) is_manifest: bool,
}

/// The result.
#[derive(Debug)]
pub(crate) struct Output {
    /// In the order in which they are best applied.
    pub(crate) files: Vec<File>,
    /// What was chosen and lost.
    pub(crate) notes: Vec<Note>,
}

/// Converts everything, or nothing.
pub(crate) fn convert(inputs: &Inputs) -> Result<Output, Faults> {
    let mut made = Made::default();
    let mut files = Vec::new();
    if inputs.config.is_none() && inputs.pods.is_empty() {
        return Err(Fault::new("", "nothing to convert: give --config, files with pods, or both").into());
    }
    let configs = match &inputs.config {
        Some(input) => source::configs(&input.name, &input.text, &mut made.notes, &mut made.faults),
        None => Vec::new(),
    };
    let all: Vec<(String, Names)> = configs.iter().map(|config| (config.name.clone(), Names::new(config))).collect();
    let default = default_names(inputs, &all, &mut made.faults);
    policies(inputs, &configs, &mut files, &mut made);
    if inputs.keep_pods {
        keep::classes(&default, &all, &mut made);
    } else {
        for (_, meaning) in all.iter().flat_map(|(_, names)| names.iter()) {
            if let Meaning::Device(device) = meaning {
                made.classes.of(device);
            }
        }
    }
    if inputs.config.is_none() {
        made.notes
            .note("", "without --config, nvidia.com/gpu is taken for a whole GPU, and there is no policy to write");
    }
    let mut pods = Vec::new();
    for input in &inputs.pods {
        let mut conversion = Conversion { all: &all, default: &default, keep: inputs.keep_pods, made: &mut made };
        pods.extend(manifests(input, &mut conversion));
    }
    if inputs.keep_pods {
        made.notes.note(
            "",
            "pods stay as they are (--keep-pods): they get their GPUs through extendedResourceName of the classes",
        );
    } else if !inputs.pods.is_empty() {
        made.notes.note(
            "",
            "pods could also run unchanged: a DeviceClass with extendedResourceName serves them, see --keep-pods and \
             deploy/overlays/extended-resource",
        );
    }
    let classes = made.classes.manifests();
    if !classes.is_empty() {
        let mut text = String::new();
        for (comment, class) in &classes {
            write::document(&mut text, comment, class, &mut made.faults);
        }
        files.push(File { name: "device-classes.yaml".to_owned(), text, is_manifest: true });
    }
    let templates = made.templates.manifests();
    if !templates.is_empty() {
        let mut text = String::new();
        for template in &templates {
            write::document(&mut text, "", template, &mut made.faults);
        }
        files.push(File { name: "claim-templates.yaml".to_owned(), text, is_manifest: true });
    }
    files.extend(pods);
    for (index, file) in files.iter().enumerate() {
        if files.iter().take(index).any(|other| other.name == file.name) {
            made.faults.push("", format!("two files of the result would be {}; rename one of the inputs", file.name));
        }
    }
    if made.faults.is_empty() { Ok(Output { files, notes: made.notes.into_vec() }) } else { Err(made.faults) }
}

/// What names mean on nodes without a label.
fn default_names(inputs: &Inputs, all: &[(String, Names)], faults: &mut Faults) -> Names {
    let named = |wanted: &str| all.iter().find(|(name, _)| name == wanted).map(|(_, names)| names.clone());
    let known = || all.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    let found = match (&inputs.default_config, all) {
        (Some(wanted), _) => {
            let stem = [".yaml", ".yml", ".json"].iter().find_map(|end| wanted.strip_suffix(end)).unwrap_or(wanted);
            let found = named(stem);
            if found.is_none() && faults.is_empty() {
                faults.push("--default-config", format!("{wanted:?} is no configuration; there are: {}", known()));
            }
            found
        }
        (None, [(_, only)]) => Some(only.clone()),
        (None, _) => named("default"),
    };
    if found.is_none() && !all.is_empty() && faults.is_empty() && (inputs.keep_pods || !inputs.pods.is_empty()) {
        faults.push(
            "",
            format!(
                "there are several configurations ({}); say with --default-config which one unlabelled nodes use",
                known()
            ),
        );
    }
    found.unwrap_or_default()
}

fn policies(inputs: &Inputs, configs: &[Config], files: &mut Vec<File>, made: &mut Made) {
    let Some(input) = &inputs.config else { return };
    let is_one = configs.len() == 1;
    let mut policies = Vec::new();
    for config in configs {
        let name = if is_one { "policy.yaml".to_owned() } else { format!("policy-{}.yaml", config.name) };
        let text = policy::policy(config, &input.name);
        for slicing in &config.slicing {
            made.notes.note(
                &input.name,
                format!(
                    "{}: {} replicas become shares.count: {}; the GPUs are offered whole, too, see {name}",
                    slicing.names.join(" or "),
                    slicing.replicas,
                    slicing.replicas
                ),
            );
        }
        if !config.slicing.is_empty() {
            made.notes.note(
                &input.name,
                "a share counts as its part of the GPU's memory, where replicas had no limit: see guard and \
                 capacity.requests.memory",
            );
        }
        if tree::documents(&At::file(&name), &text).is_err() {
            made.faults.push(&input.name, "has a pattern that can't be written in a policy file");
        }
        policies.push((name, text));
    }
    if configs.len() > 1 {
        made.notes.warn(
            &input.name,
            "holds several configurations for nodes labelled nvidia.com/device-plugin.config; a driver reads one policy file, \
             so let each group's DaemonSet mount its own key, or merge them by productName",
        );
    }
    if policies.is_empty() {
        return;
    }
    let map = policy::config_map(&policies);
    let file = |(name, text): (String, String)| File { name, text, is_manifest: false };
    files.extend(policies.into_iter().map(file));
    files.push(File { name: "policy-configmap.yaml".to_owned(), text: map, is_manifest: true });
}

/// One pass over the manifests.
struct Conversion<'a> {
    all: &'a [(String, Names)],
    default: &'a Names,
    keep: bool,
    made: &'a mut Made,
}

impl Visitor for Conversion<'_> {
    fn visit(&mut self, spec: &mut Map<String, Value>, place: &Place) -> bool {
        let names = workload::chosen(spec, self.all, self.default);
        if self.keep {
            keep::several(spec, place, names, self.made);
            return false;
        }
        pod::change(spec, place, names, self.made)
    }

    fn notes(&mut self) -> &mut Notes {
        &mut self.made.notes
    }

    fn faults(&mut self) -> &mut Faults {
        &mut self.made.faults
    }
}

/// The converted manifests of one file; none where pods stay as they are.
fn manifests(input: &Input, conversion: &mut Conversion) -> Option<File> {
    let at = At::file(&input.name);
    let mut documents = match tree::documents(&at, &input.text) {
        Ok(documents) => documents,
        Err(fault) => {
            conversion.made.faults.push("", fault.to_string());
            return None;
        }
    };
    if documents.is_empty() {
        conversion.made.faults.push(&at, "holds no manifest");
    }
    let mut header = format!(
        "# Converted from {} by aliquot-driver convert. Comments of the original can't be kept, and fields are in the order\n\
         # of their names.\n",
        one_line(&input.name)
    );
    let is_live = documents.iter_mut().fold(false, |is_live, document| live::strip(document) | is_live);
    if is_live && !conversion.keep {
        let before = conversion.made.notes.len();
        conversion.made.notes.note(&at, live::NOTE);
        for note in conversion.made.notes.since(before) {
            let _ = writeln!(header, "# {note}");
        }
    }
    let mut text = String::new();
    let mut is_changed = false;
    for mut value in documents {
        let before = conversion.made.notes.len();
        is_changed |= workload::walk(&mut value, &at, conversion);
        let mut comment = if text.is_empty() { header.clone() } else { String::new() };
        for note in conversion.made.notes.since(before) {
            let _ = writeln!(comment, "# {note}");
        }
        write::document(&mut text, &comment, &value, &mut conversion.made.faults);
    }
    if conversion.keep {
        return None;
    }
    if !is_changed {
        conversion.made.notes.note(&at, "asks for no GPU that is converted; its pods stay as they are");
    }
    let base = input.name.rsplit('/').next().unwrap_or_default();
    let stem = [".yaml", ".yml", ".json"].iter().find_map(|end| base.strip_suffix(end)).unwrap_or(base);
    Some(File { name: format!("{stem}.yaml"), text, is_manifest: true })
}

#[cfg(test)]
mod tests;
