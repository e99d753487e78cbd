//! Reads one JSON object field by field, collecting every fault, and what nobody asked for.
use serde_json::{Map, Value};

use crate::fault::Fault;

/// An object at a path, and the fields that were asked for.
pub(crate) struct Fields<'a> {
    path: String,
    map: &'a Map<String, Value>,
    known: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// The object at `path`, empty for the whole value.
    pub(crate) fn of(value: &'a Value, path: &str, what: &str, faults: &mut Vec<Fault>) -> Option<Self> {
        if let Value::Object(map) = value {
            return Some(Self { path: path.to_owned(), map, known: Vec::new() });
        }
        faults.push(Fault::new(path, format!("is {}, but must be an object{what}", type_of(value))));
        None
    }

    /// The path of a field.
    pub(crate) fn path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// The field, if it is there.
    pub(crate) fn get(&mut self, name: &'static str) -> Option<&'a Value> {
        self.known.push(name);
        self.map.get(name)
    }

    /// A text that must be one of `allowed`; none with a fault where it is not, or where it is missing but needed.
    pub(crate) fn one_of(
        &mut self,
        name: &'static str,
        allowed: &[&'static str],
        needed: bool,
        faults: &mut Vec<Fault>,
    ) -> Option<&'static str> {
        let expected = match allowed {
            [one] => format!("{one:?}"),
            many => format!("one of {}", many.join(", ")),
        };
        let path = self.path(name);
        match self.get(name) {
            Some(Value::String(text)) => {
                let found = allowed.iter().find(|allowed| *allowed == text).copied();
                if found.is_none() {
                    faults.push(Fault::new(&path, format!("is {text:?}, but must be {expected}")));
                }
                found
            }
            Some(other) => {
                faults.push(Fault::new(&path, format!("is {}, but must be {expected}", type_of(other))));
                None
            }
            None => {
                if needed {
                    faults.push(Fault::new(&path, format!("is missing; it must be {expected}")));
                }
                None
            }
        }
    }

    /// True or false; false where it is missing.
    pub(crate) fn flag(&mut self, name: &'static str, faults: &mut Vec<Fault>) -> bool {
        let path = self.path(name);
        match self.get(name) {
            Some(Value::Bool(value)) => *value,
            Some(other) => {
                faults.push(Fault::new(&path, format!("is {}, but must be true or false", type_of(other))));
                false
            }
            None => false,
        }
    }

    /// Every field that nobody asked for is a fault.
    pub(crate) fn end(self, what: &str, faults: &mut Vec<Fault>) {
        for name in self.map.keys().filter(|name| !self.known.contains(&name.as_str())) {
            let path = self.path(name);
            faults.push(Fault::new(&path, format!("is no field of {what}; it has {}", self.known.join(", "))));
        }
    }
}

/// What a value is, in words.
pub fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
