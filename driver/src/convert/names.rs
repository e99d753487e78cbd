//! What each resource name that pods ask for means here: a whole GPU or a share, and of which DeviceClass.
use std::collections::BTreeMap;

use super::{
    config::{Config, GPU, PREFIX, SHARED},
    glob,
};

/// The driver's name, with which device classes select.
const DRIVER: &str = "gpu.aliquot.dev";

/// The form in which a GPU is handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// All of it.
    Whole,
    /// A part of it.
    Share,
}

impl Form {
    /// The DeviceClass that aliquot brings along; all others end with its name.
    pub(crate) fn standard_class(self) -> &'static str {
        match self {
            Self::Whole => "gpu.aliquot.dev",
            Self::Share => "share.gpu.aliquot.dev",
        }
    }

    fn device_type(self) -> &'static str {
        match self {
            Self::Whole => "gpu",
            Self::Share => "share",
        }
    }
}

/// What a name means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// A device of a class.
    Device(Device),
    /// Nothing that is converted, and why.
    Left(String),
}

/// A device of a class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    /// Whole or a share.
    pub(crate) form: Form,
    /// The GPUs: a CEL condition, or none for all.
    pub(crate) region: Option<String>,
    /// The resource before any renaming.
    pub(crate) resource: String,
    /// How many shares a GPU has, where that is known.
    pub(crate) replicas: Option<u64>,
    /// Whether the device plugin refuses more than one.
    pub(crate) one_only: bool,
    /// What a user of this name should be warned of.
    pub(crate) remark: Option<String>,
}

impl Device {
    /// The CEL expression with which a class selects these.
    pub(crate) fn expression(&self) -> String {
        let base = format!(
            "device.driver == \"{DRIVER}\" && device.attributes[\"{DRIVER}\"].type == \"{}\"",
            self.form.device_type()
        );
        self.region.as_ref().map_or_else(|| base.clone(), |region| format!("{base} && ({region})"))
    }
}

/// What names mean where one configuration is in use.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names(BTreeMap<String, Meaning>);

impl Names {
    /// Of a configuration.
    pub(crate) fn new(config: &Config) -> Self {
        let mut names = BTreeMap::new();
        for resource in resources(config) {
            let Some(region) = region(config, &resource) else { continue };
            let device = Device {
                form: Form::Whole,
                region: Some(region).filter(|region| !region.is_empty()),
                resource: resource.clone(),
                replicas: None,
                one_only: false,
                remark: None,
            };
            let slicing: Vec<_> = config.slicing.iter().filter(|one| one.resource == resource).collect();
            let share = Device {
                form: Form::Share,
                replicas: slicing.iter().map(|one| one.replicas).max(),
                one_only: config.one_only,
                ..device.clone()
            };
            let shared: Vec<&String> = slicing.iter().flat_map(|one| &one.names).collect();
            for name in &shared {
                names.entry((*name).clone()).or_insert_with(|| Meaning::Device(share.clone()));
            }
            let remark = if resource == GPU && config.mig_as_gpu {
                Some("with migStrategy single this is a MIG device where MIG is on; here it is a whole GPU".to_owned())
            } else {
                shared.first().map(|name| format!("the configuration offers it as {name} only; here it is a whole GPU"))
            };
            names.entry(resource).or_insert(Meaning::Device(Device { remark, ..device }));
        }
        for name in &config.mps {
            names.insert(name.clone(), Meaning::Left("it is shared by MPS, which isn't converted".to_owned()));
        }
        Self(names)
    }

    /// What a resource means; none for what is no GPU of NVIDIA's.
    pub(crate) fn meaning(&self, name: &str) -> Option<Meaning> {
        let short = name.strip_prefix(PREFIX)?;
        let plain = |form, remark: &str| {
            Some(Meaning::Device(Device {
                form,
                region: None,
                resource: GPU.to_owned(),
                replicas: None,
                one_only: false,
                remark: Some(remark.to_owned()).filter(|text| !text.is_empty()),
            }))
        };
        let known = self.0.get(name).cloned();
        known.or_else(|| match short {
            "gpu" => plain(Form::Whole, ""),
            "gpu.shared" => {
                plain(Form::Share, "no configuration that is given has this name; one share is what it suggests")
            }
            _ if short.starts_with("mig-") => {
                Some(Meaning::Left("it is a MIG device, which isn't converted".to_owned()))
            }
            _ => Some(Meaning::Left("no configuration that is given has this name".to_owned())),
        })
    }

    /// All that the configuration names, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &Meaning)> {
        self.0.iter()
    }
}

/// A resource's name as a part of a class's or template's: `nvidia-a100`.
pub(crate) fn dashed(resource: &str) -> String {
    resource.replacen(".com/", "-", 1).replace(['.', '/'], "-")
}

/// The same without what renaming has added.
pub(crate) fn dashed_plain(resource: &str) -> String {
    dashed(resource.strip_suffix(SHARED).unwrap_or(resource))
}

/// Every resource that a configuration can make GPUs into, each once.
fn resources(config: &Config) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for resource in config.patterns.iter().map(|pattern| pattern.resource.as_str()).chain([GPU]) {
        if !all.iter().any(|known| known == resource) {
            all.push(resource.to_owned());
        }
    }
    all
}

/// The condition for GPUs that become a resource: empty for all, none for no GPU.
fn region(config: &Config, resource: &str) -> Option<String> {
    let name = format!("device.attributes[\"{DRIVER}\"].productName");
    let (mut terms, mut before) = (Vec::new(), Vec::new());
    let rest = ("*", GPU);
    for (glob, owner) in config.patterns.iter().map(|one| (one.glob.as_str(), one.resource.as_str())).chain([rest]) {
        let condition = glob::condition(glob, &name);
        let is_last = condition.is_none();
        if owner == resource {
            let not_before = before.iter().map(|condition| format!("!({condition})"));
            let factors: Vec<String> = condition.into_iter().chain(not_before).collect();
            if factors.is_empty() {
                return Some(String::new());
            }
            terms.push(factors.join(" && "));
        } else {
            before.extend(condition);
        }
        if is_last {
            break;
        }
    }
    match terms.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        _ => Some(terms.iter().map(|term| format!("({term})")).collect::<Vec<_>>().join(" || ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::config::Pattern;

    fn patterns(all: &[(&str, &str)]) -> Config {
        let pattern =
            |(glob, name): &(&str, &str)| Pattern { glob: (*glob).into(), resource: format!("{PREFIX}{name}") };
        Config { patterns: all.iter().map(pattern).collect(), ..Config::default() }
    }

    fn short(config: &Config, name: &str) -> Option<String> {
        region(config, &format!("{PREFIX}{name}"))
            .map(|text| text.replace("device.attributes[\"gpu.aliquot.dev\"].productName", "p"))
    }

    #[test]
    fn the_first_pattern_that_matches_decides() {
        let config = patterns(&[("*A100*", "a100"), ("*40GB", "small"), ("*L40*", "a100")]);
        assert_eq!(
            short(&config, "a100").as_deref(),
            Some("(p.contains(\"A100\")) || (p.contains(\"L40\") && !(p.endsWith(\"40GB\")))")
        );
        assert_eq!(short(&config, "small").as_deref(), Some("p.endsWith(\"40GB\") && !(p.contains(\"A100\"))"));
        let rest = short(&config, "gpu").unwrap();
        assert!(rest.starts_with("!(p.contains(\"A100\")) && !(p.endsWith"), "{rest}");
    }

    #[test]
    fn a_pattern_for_all_leaves_nothing_to_later_ones() {
        let config = patterns(&[("*", "any"), ("*A100*", "a100")]);
        assert_eq!(short(&config, "any").as_deref(), Some(""));
        assert_eq!((short(&config, "a100"), short(&config, "gpu")), (None, None));
    }

    #[test]
    fn without_any_configuration_the_usual_names_have_their_usual_meaning() {
        let names = Names::default();
        let form = |name: &str| match names.meaning(name) {
            Some(Meaning::Device(device)) => Some(device.form),
            _ => None,
        };
        assert_eq!((form("nvidia.com/gpu"), form("nvidia.com/gpu.shared")), (Some(Form::Whole), Some(Form::Share)));
        assert!(matches!(names.meaning("nvidia.com/mig-1g.5gb"), Some(Meaning::Left(_))));
        assert!(matches!(names.meaning("nvidia.com/hostdev"), Some(Meaning::Left(_))));
        assert_eq!((names.meaning("cpu"), names.meaning("amd.com/gpu")), (None, None));
    }
}
