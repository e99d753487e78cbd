//! The claim templates: one for each distinct request in each namespace.
use serde_json::{Value, json};

use super::asks::Ask;

/// One template.
#[derive(Debug)]
struct Template {
    namespace: Option<String>,
    name: String,
    requests: Vec<Value>,
}

/// All of them, in the order in which they came up.
#[derive(Debug, Default)]
pub(crate) struct Templates(Vec<Template>);

impl Templates {
    /// The name of the template with these requests; a new one is called `wanted`, or nearly so.
    pub(crate) fn name(&mut self, namespace: Option<&str>, wanted: &str, requests: &[(String, Ask)]) -> String {
        let requests: Vec<Value> = requests.iter().map(|(name, ask)| request(name, ask)).collect();
        let here = |template: &&Template| template.namespace.as_deref() == namespace;
        if let Some(same) = self.0.iter().filter(here).find(|template| template.requests == requests) {
            return same.name.clone();
        }
        let mut name = wanted.to_owned();
        let mut number = 2;
        while self.0.iter().filter(here).any(|template| template.name == name) {
            name = format!("{wanted}-{number}");
            number += 1;
        }
        self.0.push(Template { namespace: namespace.map(str::to_owned), name: name.clone(), requests });
        name
    }

    /// The manifests.
    pub(crate) fn manifests(&self) -> Vec<Value> {
        let manifest = |template: &Template| {
            let mut metadata = json!({"name": template.name});
            if let (Some(namespace), Some(fields)) = (&template.namespace, metadata.as_object_mut()) {
                fields.insert("namespace".to_owned(), json!(namespace));
            }
            json!({
                "apiVersion": "resource.k8s.io/v1",
                "kind": "ResourceClaimTemplate",
                "metadata": metadata,
                "spec": {"spec": {"devices": {"requests": template.requests}}},
            })
        };
        self.0.iter().map(manifest).collect()
    }
}

fn request(name: &str, ask: &Ask) -> Value {
    let mut exactly = serde_json::Map::new();
    exactly.insert("deviceClassName".to_owned(), json!(ask.class));
    if ask.count != 1 {
        exactly.insert("count".to_owned(), json!(ask.count));
    }
    if ask.shares.is_some_and(|shares| shares != 1) {
        let shares = ask.shares.map(|shares| shares.to_string());
        exactly.insert("capacity".to_owned(), json!({"requests": {"shares": shares}}));
    }
    json!({"name": name, "exactly": exactly})
}
