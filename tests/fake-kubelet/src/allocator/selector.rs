//! CEL expressions over devices, with the variables and functions of Kubernetes' own (`k8s.io/dynamic-resource-allocation/cel`).
use std::{cmp::Ordering, collections::HashMap, sync::Arc};

use cel::{
    Context, Env, ExecutionError, Program, Value,
    extractors::This,
    objects::{Opaque, ResolveResult},
};
use k8s_openapi::api::resource::v1::{Device, DeviceAttribute};

use super::quantity::Quantity;

/// A compiled expression.
pub(super) struct Selector {
    expression: String,
    program: Program,
    env: Arc<Env>,
}

/// An expression that this stand-in cannot evaluate. Where the real scheduler cannot either, it gives up the claim too.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this stand-in cannot evaluate {expression:?}: {reason}")]
pub struct SelectorError {
    /// The expression.
    pub expression: String,
    /// What is wrong with it, or missing here.
    pub reason: String,
}

impl Selector {
    pub(super) fn compile(expression: &str) -> Result<Self, SelectorError> {
        let env = Arc::new(Env::stdlib());
        let program = env.compile(expression).map_err(|error| failure(expression, &error.to_string()))?;
        Ok(Self { expression: expression.to_owned(), program, env })
    }

    /// Whether it holds for a device.
    pub(super) fn matches(&self, driver: &str, device: &Device) -> Result<bool, SelectorError> {
        let result = context(self.env.clone(), driver, device)
            .and_then(|context| self.program.execute(&context).map_err(|error| error.to_string()));
        match result.map_err(|reason| failure(&self.expression, &reason))? {
            Value::Bool(holds) => Ok(holds),
            other => Err(failure(&self.expression, &format!("it is {other:?}, not a bool"))),
        }
    }
}

fn failure(expression: &str, reason: &str) -> SelectorError {
    SelectorError { expression: expression.to_owned(), reason: reason.to_owned() }
}

fn context(env: Arc<Env>, driver: &str, device: &Device) -> Result<Context<'static, 'static>, String> {
    let mut context = Context::with_env(env);
    context.add_variable_from_value("device", device_value(driver, device)?);
    let added = context
        .add_function("quantity", |text: Arc<String>| opaque("quantity", text.parse().map(Ordered::Quantity)))
        .and_then(|()| {
            context.add_function("semver", |text: Arc<String>| opaque("semver", text.parse().map(Ordered::Version)))
        })
        .and_then(|()| {
            context.add_function("compareTo", |This(a): This<Arc<dyn Opaque>>, b: Arc<dyn Opaque>| {
                compare("compareTo", &a, &b).map(|ordering| ordering as i64)
            })
        })
        .and_then(|()| {
            context.add_function("isGreaterThan", |This(a): This<Arc<dyn Opaque>>, b: Arc<dyn Opaque>| {
                compare("isGreaterThan", &a, &b).map(Ordering::is_gt)
            })
        })
        .and_then(|()| {
            context.add_function("isLessThan", |This(a): This<Arc<dyn Opaque>>, b: Arc<dyn Opaque>| {
                compare("isLessThan", &a, &b).map(Ordering::is_lt)
            })
        });
    added.map_err(|error| error.to_string())?;
    Ok(context)
}

/// A value of a type that CEL itself does not have.
#[derive(Debug, PartialEq, Eq)]
enum Ordered {
    Quantity(Quantity),
    Version(semver::Version),
}

impl Opaque for Ordered {
    fn runtime_type_name(&self) -> &str {
        match self {
            Self::Quantity(_) => "kubernetes.Quantity",
            Self::Version(_) => "kubernetes.Semver",
        }
    }
}

fn opaque<E: ToString>(function: &str, parsed: Result<Ordered, E>) -> ResolveResult {
    let value = parsed.map_err(|error| ExecutionError::function_error(function, error))?;
    Ok(Value::Opaque(Arc::new(value)))
}

fn compare(function: &str, a: &Arc<dyn Opaque>, b: &Arc<dyn Opaque>) -> Result<Ordering, ExecutionError> {
    match (a.downcast_ref(), b.downcast_ref()) {
        (Some(Ordered::Quantity(a)), Some(Ordered::Quantity(b))) => Ok(a.cmp(b)),
        (Some(Ordered::Version(a)), Some(Ordered::Version(b))) => Ok(a.cmp_precedence(b)),
        _ => Err(ExecutionError::function_error(function, "both must be quantities, or both versions")),
    }
}

fn device_value(driver: &str, device: &Device) -> Result<Value, String> {
    let mut attributes = Domains::default();
    for (name, attribute) in device.attributes.iter().flatten() {
        attributes.insert(driver, name, attribute_value(attribute)?);
    }
    let mut capacity = Domains::default();
    for (name, amount) in device.capacity.iter().flatten() {
        let quantity = amount.value.0.parse().map(Ordered::Quantity);
        capacity.insert(driver, name, opaque("quantity", quantity).map_err(|error| error.to_string())?);
    }
    let fields = HashMap::from([
        ("driver".to_owned(), Value::from(driver)),
        ("attributes".to_owned(), attributes.into_value()),
        ("capacity".to_owned(), capacity.into_value()),
        ("allowMultipleAllocations".to_owned(), device.allow_multiple_allocations.unwrap_or_default().into()),
    ]);
    Ok(fields.into())
}

fn attribute_value(attribute: &DeviceAttribute) -> Result<Value, String> {
    match attribute {
        DeviceAttribute { string: Some(text), .. } => Ok(Value::from(text.as_str())),
        DeviceAttribute { int: Some(number), .. } => Ok((*number).into()),
        DeviceAttribute { bool: Some(flag), .. } => Ok((*flag).into()),
        DeviceAttribute { version: Some(version), .. } => {
            opaque("semver", version.parse().map(Ordered::Version)).map_err(|error| error.to_string())
        }
        _ => Err("a device has an attribute of a list type".to_owned()),
    }
}

/// Values by domain and name; those that are published without a domain belong to the driver's own.
#[derive(Default)]
struct Domains(HashMap<String, HashMap<String, Value>>);

impl Domains {
    fn insert(&mut self, driver: &str, name: &str, value: Value) {
        let (domain, name) = name.split_once('/').unwrap_or((driver, name));
        self.0.entry(domain.to_owned()).or_default().insert(name.to_owned(), value);
    }

    fn into_value(self) -> Value {
        self.0.into_iter().map(|(domain, values)| (domain, values.into())).collect::<HashMap<_, Value>>().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocator::fixtures::gpu;

    fn holds(expression: &str) -> Result<bool, SelectorError> {
        Selector::compile(expression)?.matches("gpu.example.com", &gpu("gpu-0", "H200", "141Gi"))
    }

    #[test]
    fn attributes_and_capacity_are_found_in_the_drivers_domain() {
        for expression in [
            r#"device.driver == "gpu.example.com""#,
            r#"device.attributes["gpu.example.com"].productName == "H200""#,
            r#"device.attributes["gpu.example.com"].productName.startsWith("H")"#,
            r#"device.attributes["gpu.example.com"].index == 0 && !device.attributes["gpu.example.com"].mig"#,
            r#"device.attributes["resource.kubernetes.io"].pcieRoot == "pci0000:00""#,
            r#"device.capacity["gpu.example.com"].memory.compareTo(quantity("40Gi")) >= 0"#,
            r#"device.capacity["gpu.example.com"].memory.isLessThan(quantity("1Ti"))"#,
            r#"device.attributes["gpu.example.com"].driverVersion.isGreaterThan(semver("535.104.5"))"#,
            r#"device.attributes["gpu.example.com"].productName in ["H100", "H200"]"#,
        ] {
            assert_eq!(holds(expression), Ok(true), "{expression}");
        }
        assert_eq!(holds(r#"device.driver == "x" || device.attributes["gpu.example.com"].mig"#), Ok(false));
    }

    #[test]
    fn what_cannot_be_evaluated_is_an_error_that_says_so() {
        for (expression, reason) in [
            (r#"device.attributes["gpu.example.com"].nope == 1"#, "No such key: nope"),
            (r#"device.driver == nope("x")"#, "nope"),
            ("device.driver ==", "Syntax error"),
            ("device.driver", "not a bool"),
            (r#"device.capacity["gpu.example.com"].memory.compareTo(semver("1.0.0")) > 0"#, "both must be"),
            (r#"device.capacity["gpu.example.com"].memory.compareTo(quantity("lots")) > 0"#, "not a quantity"),
        ] {
            let error = holds(expression).unwrap_err();
            assert!(error.to_string().contains("stand-in") && error.reason.contains(reason), "{error}");
        }
    }
}
