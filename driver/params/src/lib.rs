//! The opaque parameters that users write in claims and classes, decoded strictly.
//!
//! ```yaml
//! apiVersion: gpu.aliquot.dev/v1alpha1
//! kind: GpuConfig
//! ```
//! Everything that is wrong is reported at once, each fault with the path of its field. What isn't understood is an error:
//! a parameter with no effect would be found out in production.
#![forbid(unsafe_code)]

mod fault;

pub use fault::{Fault, Faults};
use serde_json::{Map, Value};

/// The one version of the parameters.
pub const API_VERSION: &str = "gpu.aliquot.dev/v1alpha1";

/// Decoded parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Config {
    /// Of a whole GPU.
    Gpu(GpuConfig),
}

/// Parameters of a whole GPU: none so far beyond saying that it is meant to be one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GpuConfig {}

/// Decodes one opaque configuration.
pub fn decode(parameters: &Value) -> Result<Config, Faults> {
    let Value::Object(fields) = parameters else {
        return Err(Fault::new(
            "",
            format!("is {}, but must be an object with apiVersion and kind", type_of(parameters)),
        )
        .into());
    };
    let mut faults = Vec::new();
    constant(fields, "apiVersion", API_VERSION, &mut faults);
    constant(fields, "kind", "GpuConfig", &mut faults);
    for name in fields.keys().filter(|name| !["apiVersion", "kind"].contains(&name.as_str())) {
        faults.push(Fault::new(name, "is no field of GpuConfig; it has apiVersion and kind only"));
    }
    if faults.is_empty() { Ok(Config::Gpu(GpuConfig::default())) } else { Err(Faults::from(faults)) }
}

fn constant(fields: &Map<String, Value>, name: &str, expected: &str, faults: &mut Vec<Fault>) {
    match fields.get(name) {
        Some(Value::String(text)) if text == expected => {}
        Some(Value::String(text)) => faults.push(Fault::new(name, format!("is {text:?}, but must be {expected:?}"))),
        Some(other) => faults.push(Fault::new(name, format!("is {}, but must be {expected:?}", type_of(other)))),
        None => faults.push(Fault::new(name, format!("is missing; it must be {expected:?}"))),
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_plain_config_is_taken() {
        let config = json!({"apiVersion": "gpu.aliquot.dev/v1alpha1", "kind": "GpuConfig"});
        assert_eq!(decode(&config), Ok(Config::Gpu(GpuConfig {})));
    }

    #[test]
    fn all_faults_are_told_at_once_with_their_paths() {
        let config = json!({"apiVersion": "v1", "kind": 3, "sharring": {}, "mode": "x"});
        let faults = decode(&config).unwrap_err().to_string();
        for part in ["apiVersion is \"v1\"", "kind is a number", "sharring is no field", "mode is no field"] {
            assert!(faults.contains(part), "{faults}");
        }
    }

    #[test]
    fn what_is_no_object_or_empty_says_what_it_should_be() {
        assert!(decode(&json!([])).unwrap_err().to_string().contains("is a list"));
        assert!(decode(&json!({})).unwrap_err().to_string().contains("kind is missing"));
    }

    proptest! {
        #[test]
        fn foreign_json_is_refused_without_a_panic(text in "[\\[\\]{}\":,a-z0-9 ]{0,40}") {
            if let Ok(value) = serde_json::from_str::<Value>(&text) {
                prop_assert!(decode(&value).is_err());
            }
        }
    }
}
