//! YAML and JSON as value trees whose fields are read with their paths.
use std::fmt;

pub(crate) use aliquot_params::type_of;
use serde_json::{Map, Value};

use super::notes::{Fault, Faults, Notes};

/// The largest configuration, in bytes: the most that a `ConfigMap` holds.
pub(crate) const LARGEST_CONFIG: usize = 1 << 20;
/// The largest file of manifests, in bytes: some ten thousand objects as `kubectl get` lists them.
pub(crate) const LARGEST_PODS: usize = 64 << 20;
/// The most values and keys of one file, which bounds the memory that it takes: one for each 10 bytes of the largest.
/// Listed objects have one for each 15 to 20.
const MOST_NODES: usize = LARGEST_PODS / 10;
/// The most documents of one file, each of at least 64 bytes.
const MOST_DOCUMENTS: usize = LARGEST_PODS / 64;

/// A place in a file.
#[derive(Debug, Clone)]
pub(crate) struct At {
    file: String,
    path: String,
}

impl At {
    /// The whole of a file.
    pub(crate) fn file(name: &str) -> Self {
        Self { file: name.to_owned(), path: String::new() }
    }

    /// A field below.
    pub(crate) fn field(&self, name: &str) -> Self {
        let is_plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        let path = match (is_plain, self.path.is_empty()) {
            (true, true) => name.to_owned(),
            (true, false) => format!("{}.{name}", self.path),
            (false, _) => format!("{}[{name:?}]", self.path),
        };
        Self { file: self.file.clone(), path }
    }

    /// An object in it, by its kind and name.
    pub(crate) fn item_named(&self, name: &str) -> Self {
        Self::file(&if self.file.is_empty() { name.to_owned() } else { format!("{}: {name}", self.file) })
    }

    /// An item below.
    pub(crate) fn item(&self, index: usize) -> Self {
        Self { file: self.file.clone(), path: format!("{}[{index}]", self.path) }
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.file.is_empty(), self.path.is_empty()) {
            (_, true) => f.write_str(&self.file),
            (true, false) => f.write_str(&self.path),
            (false, false) => write!(f, "{}: {}", self.file, self.path),
        }
    }
}

/// All documents of a file that aren't empty.
///
/// Numbers such as `0644` are octal and `yes` is true, as for kubectl, which reads YAML 1.1.
pub(crate) fn documents(at: &At, text: &str) -> Result<Vec<Value>, Fault> {
    // Each list and object is one node and two events.
    let budget =
        serde_saphyr::budget! {max_nodes: MOST_NODES, max_events: 2 * MOST_NODES, max_documents: MOST_DOCUMENTS};
    let options = serde_saphyr::options! {legacy_octal_numbers: true, with_snippet: false, budget: budget};
    serde_saphyr::from_multiple_with_options(text, options)
        .map_err(|error| Fault::new(at, format!("isn't YAML or JSON that can be read: {error}")))
}

/// The fields of an object.
pub(crate) fn object<'a>(value: &'a Value, at: &At, faults: &mut Faults) -> Option<&'a Map<String, Value>> {
    let fields = value.as_object();
    if fields.is_none() {
        faults.push(at, format!("is {}, but must be an object", type_of(value)));
    }
    fields
}

/// One field that may be absent or null.
pub(crate) fn optional<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    fields.get(name).filter(|value| !value.is_null())
}

/// A text that may be absent.
pub(crate) fn text<'a>(fields: &'a Map<String, Value>, name: &str, at: &At, faults: &mut Faults) -> Option<&'a str> {
    let value = optional(fields, name)?;
    let text = value.as_str();
    if text.is_none() {
        faults.push(at.field(name), format!("is {}, but must be a text", type_of(value)));
    }
    text
}

/// A switch that is off where it is absent.
pub(crate) fn switch(fields: &Map<String, Value>, name: &str, at: &At, faults: &mut Faults) -> bool {
    match optional(fields, name) {
        None => false,
        Some(Value::Bool(on)) => *on,
        Some(other) => {
            faults.push(at.field(name), format!("is {}, but must be true or false", type_of(other)));
            false
        }
    }
}

/// The items of a list that may be absent.
pub(crate) fn list<'a>(fields: &'a Map<String, Value>, name: &str, at: &At, faults: &mut Faults) -> &'a [Value] {
    match optional(fields, name) {
        None => &[],
        Some(Value::Array(items)) => items,
        Some(other) => {
            faults.push(at.field(name), format!("is {}, but must be a list", type_of(other)));
            &[]
        }
    }
}

/// Warns of fields beyond those that are known.
pub(crate) fn unknown(fields: &Map<String, Value>, known: &[&str], at: &At, notes: &mut Notes) {
    for name in fields.keys().filter(|name| !known.contains(&name.as_str())) {
        notes.warn(at.field(name), "is no field that convert knows, and is left out");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_read_as_kubectl_reads_them() {
        let text =
            "mode: 0644\non: yes\nquoted: \"0644\"\nversion: '1.10'\n---\n# nothing\n---\n{\"json\": [1, null]}\n";
        let all = documents(&At::file("x"), text).unwrap();
        let first = json!({"mode": 420, "on": true, "quoted": "0644", "version": "1.10"});
        assert_eq!(all, [first, json!({"json": [1, null]})]);
    }

    #[test]
    fn what_cant_be_read_is_told_with_its_file_and_line() {
        let fault = documents(&At::file("pods.yaml"), "a: 1\nb: [\n").unwrap_err().to_string();
        assert!(fault.starts_with("pods.yaml: ") && fault.contains("line"), "{fault}");
        let twice = documents(&At::file("x"), "a: 1\na: 2\n").unwrap_err().to_string();
        assert!(twice.contains("line 2"), "{twice}");
    }

    #[test]
    fn a_small_file_cant_become_a_large_one() {
        let ten = |item: &str| [item; 10].join(",");
        let more = (1..9).map(|at| format!("a{at}: &a{at} [{}]\n", ten(&format!("*a{}", at - 1))));
        let text = format!("a0: &a0 [{}]\n{}", ten("1"), more.collect::<String>());
        let fault = documents(&At::file("x"), &text).unwrap_err().to_string();
        assert!(fault.contains("budget"), "{fault}");
    }

    #[test]
    fn paths_read_as_people_write_them() {
        let at = At::file("f").field("spec").field("containers").item(0).field("nvidia.com/gpu");
        assert_eq!(at.to_string(), "f: spec.containers[0][\"nvidia.com/gpu\"]");
    }
}
