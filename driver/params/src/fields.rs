//! Reads one JSON object by its table, field by field, collecting every fault, and what is in no table.
use serde_json::{Map, Value};

use crate::{
    fault::Fault,
    form::{Field, Takes, instead},
};

/// An object at a path, and the fields that it may have.
pub(crate) struct Fields<'a> {
    path: String,
    map: &'a Map<String, Value>,
    table: &'static [Field],
}

impl<'a> Fields<'a> {
    /// The object at `path`, empty for the whole value; `with` is what it has, in words. Nothing is known of its fields yet.
    pub(crate) fn of(value: &'a Value, path: &str, with: &str, faults: &mut Vec<Fault>) -> Option<Self> {
        if let Value::Object(map) = value {
            return Some(Self { path: path.to_owned(), map, table: &[] });
        }
        faults.push(Fault::new(path, format!("is {}, but must be an object with {with}", type_of(value))));
        None
    }

    /// The same with what it may have: every other field is a fault, but for those in `known`, which are read without.
    pub(crate) fn by(self, table: &'static [Field], known: &[&str], what: &str, faults: &mut Vec<Fault>) -> Self {
        let names: Vec<&str> = known.iter().copied().chain(table.iter().map(|field| field.name)).collect();
        for name in self.map.keys().filter(|name| !names.contains(&name.as_str())) {
            let path = self.path(name);
            faults.push(Fault::new(&path, format!("is no field of {what}; it has {}", names.join(", "))));
        }
        for field in table {
            if let (Takes::Nothing(reason), true) = (&field.takes, self.map.contains_key(field.name)) {
                faults.push(Fault::new(&self.path(field.name), *reason));
            }
        }
        Self { table, ..self }
    }

    fn path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    fn field(&self, name: &str) -> Option<&'static Field> {
        self.table.iter().find(|field| field.name == name)
    }

    /// The object in a field, if it is there.
    pub(crate) fn object(&self, name: &str, faults: &mut Vec<Fault>) -> Option<Self> {
        let Takes::Object(with, table) = &self.field(name)?.takes else { return None };
        let fields = Self::of(self.map.get(name)?, &self.path(name), with, faults)?;
        Some(fields.by(table, &[], name, faults))
    }

    /// The text in a field, one of those that it may be; none, with a fault, where it is another or missing but needed.
    pub(crate) fn text(&self, name: &str, faults: &mut Vec<Fault>) -> Option<&'static str> {
        let field = self.field(name)?;
        let Takes::OneOf(allowed) = &field.takes else { return None };
        self.one_of(name, allowed, field.needed, faults)
    }

    /// The same for a field without a table.
    pub(crate) fn one_of(
        &self,
        name: &str,
        allowed: &[&'static str],
        needed: bool,
        faults: &mut Vec<Fault>,
    ) -> Option<&'static str> {
        let expected = match allowed {
            [one] => format!("{one:?}"),
            many => format!("one of {}", many.join(", ")),
        };
        let reason = match self.map.get(name) {
            Some(Value::String(text)) => {
                let found = allowed.iter().find(|allowed| *allowed == text).copied();
                if found.is_some() {
                    return found;
                }
                let instead = instead(text).map(|instead| format!(": {instead}")).unwrap_or_default();
                format!("is {text:?}, but must be {expected}{instead}")
            }
            Some(other) => format!("is {}, but must be {expected}", type_of(other)),
            None if needed => format!("is missing; it must be {expected}"),
            None => return None,
        };
        faults.push(Fault::new(&self.path(name), reason));
        None
    }

    /// True or false; false where it is missing.
    pub(crate) fn flag(&self, name: &str, faults: &mut Vec<Fault>) -> bool {
        match self.map.get(name).filter(|_| self.field(name).is_some()) {
            Some(Value::Bool(value)) => *value,
            Some(other) => {
                faults.push(Fault::new(&self.path(name), format!("is {}, but must be true or false", type_of(other))));
                false
            }
            None => false,
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
