//! The device classes that a conversion needs beyond those that aliquot brings along.
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::names::{Device, Form, dashed, dashed_plain};

/// One class.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Class {
    name: String,
    expression: String,
    extended: Option<String>,
    form: Form,
}

/// All of them, in the order in which they came up.
#[derive(Debug, Default)]
pub(crate) struct Classes(Vec<Class>);

impl Classes {
    /// The class of a device: the standard one, or one of its own where not every GPU is meant.
    pub(crate) fn of(&mut self, device: &Device) -> String {
        if device.region.is_none() {
            return device.form.standard_class().to_owned();
        }
        self.add(&dashed_plain(&device.resource), device, None)
    }

    /// A class through which pods that ask for `name` get the device unchanged.
    pub(crate) fn extend(&mut self, name: &str, device: &Device) {
        self.add(&dashed(name), device, Some(name.to_owned()));
    }

    fn add(&mut self, label: &str, device: &Device, extended: Option<String>) -> String {
        let (expression, form) = (device.expression(), device.form);
        let same = |class: &&Class| class.expression == expression && class.extended == extended;
        if let Some(class) = self.0.iter().find(same) {
            return class.name.clone();
        }
        let standard = form.standard_class();
        let mut name = format!("{label}.{standard}");
        let mut number = 2;
        while self.0.iter().any(|class| class.name == name) {
            name = format!("{label}-{number}.{standard}");
            number += 1;
        }
        self.0.push(Class { name: name.clone(), expression, extended, form });
        name
    }

    /// The manifests, each with its comment.
    pub(crate) fn manifests(&self) -> Vec<(String, Value)> {
        let manifest = |class: &Class| {
            let what = match class.form {
                Form::Whole => "whole GPUs",
                Form::Share => "shares of GPUs",
            };
            let mut spec = json!({"selectors": [{"cel": {"expression": class.expression}}]});
            let mut comment = format!("# {what}");
            if let (Some(name), Some(fields)) = (&class.extended, spec.as_object_mut()) {
                let _ = write!(
                    comment,
                    " for pods that ask for {name} (KEP-5004, on by default from Kubernetes 1.36). Not for nodes on which\n\
                     # the device plugin still runs"
                );
                fields.insert("extendedResourceName".to_owned(), json!(name));
            }
            comment.push_str(".\n");
            let metadata = json!({"name": class.name});
            let kind =
                json!({"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": metadata, "spec": spec});
            (comment, kind)
        };
        self.0.iter().map(manifest).collect()
    }
}
