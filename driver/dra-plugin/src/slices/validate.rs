//! What the API server would refuse, told before it is asked, all at once and with paths.
use std::{collections::BTreeSet, fmt};

use k8s_openapi::api::resource::v1::{CapacityRequestPolicy, Device, DeviceAttribute, DeviceCapacity};

use super::{pool::Pool, quantity::Amount};
use crate::name::is_dns_subdomain;

/// Most attributes and capacities of one device together (`ResourceSliceMaxAttributesAndCapacitiesPerDevice`).
const MOST_PROPERTIES: usize = 32;
/// Longest text and version of an attribute, in bytes (`DeviceAttributeMaxValueLength`).
const LONGEST_VALUE: usize = 64;
/// Longest identifier after an attribute's domain (`DeviceMaxIDLength`).
const LONGEST_ID: usize = 32;
/// Longest domain of an attribute (`DeviceMaxDomainLength`).
const LONGEST_DOMAIN: usize = 63;

/// One thing that is wrong with a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where, such as `devices[gpu-0].attributes.model`.
    pub path: String,
    /// What, and what is expected.
    pub reason: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.path, self.reason)
    }
}

/// Everything that is wrong with a pool; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// Each by itself.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.0.iter()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&texts.join("; "))
    }
}

/// Checks what the API server checks, as far as a driver can get it wrong.
pub(super) fn validate(pool: &Pool) -> Result<(), Faults> {
    let mut faults = Collector::default();
    let mut names = BTreeSet::new();
    for device in &pool.devices {
        let path = format!("devices[{}]", device.name);
        if !is_label(&device.name) {
            faults.add(&path, "has no DNS label of at most 63 bytes as its name");
        }
        if !names.insert(device.name.as_str()) {
            faults.add(&path, "is there more than once");
        }
        check_properties(device, &path, &mut faults);
        check_counters(device, pool, &path, &mut faults);
    }
    let mut sets = BTreeSet::new();
    for set in &pool.counters {
        if !sets.insert(set.name.as_str()) {
            faults.add(&format!("counters[{}]", set.name), "is there more than once");
        }
    }
    if faults.0.is_empty() { Ok(()) } else { Err(Faults(faults.0)) }
}

/// Whether an attribute is a list (KEP-5491): it has none of the single values.
pub(super) fn is_list(attribute: &DeviceAttribute) -> bool {
    values(attribute) == 0
}

fn values(attribute: &DeviceAttribute) -> usize {
    let DeviceAttribute { bool, int, string, version, .. } = attribute;
    [bool.is_some(), int.is_some(), string.is_some(), version.is_some()].into_iter().filter(|is| *is).count()
}

#[derive(Default)]
struct Collector(Vec<Fault>);

impl Collector {
    fn add(&mut self, path: &str, reason: impl Into<String>) {
        self.0.push(Fault { path: path.to_owned(), reason: reason.into() });
    }
}

fn check_properties(device: &Device, path: &str, faults: &mut Collector) {
    let attributes = device.attributes.iter().flatten();
    let capacities = device.capacity.iter().flatten();
    let count = attributes.clone().count() + capacities.clone().count();
    if count > MOST_PROPERTIES {
        faults.add(path, format!("has {count} attributes and capacities, but at most {MOST_PROPERTIES} are allowed"));
    }
    for (name, attribute) in attributes {
        let path = format!("{path}.attributes.{name}");
        check_name(name, &path, faults);
        if values(attribute) > 1 {
            faults.add(&path, "has more than one value");
        }
        if let Some(text) = attribute.string.iter().chain(&attribute.version).find(|text| text.len() > LONGEST_VALUE) {
            faults.add(&path, format!("has a value of {} bytes, but at most {LONGEST_VALUE} are allowed", text.len()));
        }
        if attribute.version.as_deref().is_some_and(|version| !is_semver(version)) {
            faults.add(&path, "is no semantic version (semver 2.0.0)");
        }
    }
    for (name, capacity) in capacities {
        let path = format!("{path}.capacity.{name}");
        check_name(name, &path, faults);
        check_capacity(capacity, device.allow_multiple_allocations == Some(true), &path, faults);
    }
}

fn check_capacity(capacity: &DeviceCapacity, shared: bool, path: &str, faults: &mut Collector) {
    match Amount::of(&capacity.value) {
        None => faults.add(path, format!("is {:?}, which is no quantity", capacity.value.0)),
        Some(amount) if amount.is_negative() => faults.add(path, "is negative"),
        Some(_) => {}
    }
    let Some(policy) = &capacity.request_policy else { return };
    if !shared {
        faults.add(path, "has a requestPolicy, but its device does not allow several allocations");
    }
    if let Some(reason) = policy_fault(policy) {
        faults.add(&format!("{path}.requestPolicy"), reason);
    }
}

/// What is wrong with a policy: its default must be something that could be asked for.
fn policy_fault(policy: &CapacityRequestPolicy) -> Option<&'static str> {
    let default = match policy.default.as_ref().map(Amount::of) {
        Some(None) => return Some("has a default that is no quantity"),
        Some(Some(default)) => Some(default),
        None => None,
    };
    let values = policy.valid_values.as_deref().unwrap_or_default();
    match (&policy.valid_range, values) {
        (Some(_), [_, ..]) => Some("has both validRange and validValues"),
        (Some(_), []) | (None, [_, ..]) if default.is_none() => Some("limits what is asked for, and needs a default"),
        (None, [_, ..]) if values.iter().all(|value| Amount::of(value) != default) => {
            Some("has a default that is none of validValues")
        }
        (Some(range), []) => {
            let (Some(default), Some(min)) = (default, Amount::of(&range.min)) else {
                return Some("has a minimum that is no quantity");
            };
            let max = range.max.as_ref().and_then(Amount::of);
            let step = range.step.as_ref().and_then(Amount::of);
            match (max, step) {
                _ if default < min || max.is_some_and(|max| default > max) => {
                    Some("has a default out of its validRange")
                }
                (_, Some(step)) if !step.is_positive() => Some("has a step that is not positive"),
                (_, Some(step)) if !default.is_aligned(min, step) => {
                    Some("has a default that no step from the minimum hits")
                }
                (Some(max), Some(step)) if !max.is_aligned(min, step) => {
                    Some("has a maximum that no step from the minimum hits")
                }
                _ => None,
            }
        }
        _ => None,
    }
}

fn check_counters(device: &Device, pool: &Pool, path: &str, faults: &mut Collector) {
    for consumed in device.consumes_counters.iter().flatten() {
        let path = format!("{path}.consumesCounters[{}]", consumed.counter_set);
        let Some(set) = pool.counters.iter().find(|set| set.name == consumed.counter_set) else {
            faults.add(&path, "names no counter set of the pool");
            continue;
        };
        for name in consumed.counters.keys().filter(|name| !set.counters.contains_key(*name)) {
            faults.add(&path, format!("consumes {name:?}, which the counter set does not have"));
        }
    }
}

fn check_name(name: &str, path: &str, faults: &mut Collector) {
    let (domain, id) = name.split_once('/').map_or((None, name), |(domain, id)| (Some(domain), id));
    let starts = id.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let body = id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !starts || !body || id.len() > LONGEST_ID {
        faults.add(path, format!("is no name: a C identifier of at most {LONGEST_ID} bytes is expected"));
    }
    if domain.is_some_and(|domain| domain.len() > LONGEST_DOMAIN || !is_dns_subdomain(domain)) {
        faults.add(path, format!("has a domain that is no DNS subdomain of at most {LONGEST_DOMAIN} bytes"));
    }
}

fn is_label(name: &str) -> bool {
    name.len() <= 63 && !name.contains('.') && is_dns_subdomain(name)
}

/// Three numbers without leading zeros, then perhaps a pre-release and build part.
fn is_semver(text: &str) -> bool {
    let core = text.split(['-', '+']).next().unwrap_or_default();
    let number = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) && (part == "0" || !part.starts_with('0'))
    };
    let parts: Vec<&str> = core.split('.').collect();
    parts.len() == 3 && parts.into_iter().all(number)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{
        api::resource::v1::{CapacityRequestPolicyRange, DeviceCounterConsumption},
        apimachinery::pkg::api::resource::Quantity,
    };

    use super::*;
    use crate::slices::testing::{device, pool};

    fn faults(pool: &Pool) -> String {
        validate(pool).map_or_else(|faults| faults.to_string(), |()| String::new())
    }

    fn with(change: impl FnOnce(&mut Device)) -> String {
        let mut pool = pool(&[]);
        let mut device = device("gpu-0");
        change(&mut device);
        pool.devices.push(device);
        faults(&pool)
    }

    fn text(value: &str) -> DeviceAttribute {
        DeviceAttribute { string: Some(value.into()), ..DeviceAttribute::default() }
    }

    #[test]
    fn a_plain_pool_has_no_faults() {
        assert_eq!(faults(&pool(&["gpu-0", "gpu-1"])), "");
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let told = faults(&pool(&["gpu-0", "gpu-0", "GPU", "a.b"]));
        for part in ["devices[gpu-0] is there more than once", "devices[GPU] has no DNS label", "devices[a.b] has no"] {
            assert!(told.contains(part), "{told}");
        }
    }

    #[test]
    fn attributes_are_checked_by_name_and_value() {
        let attribute = |name: &str, value| with(|device| device.attributes = Some([(name.to_owned(), value)].into()));
        assert_eq!(attribute("resource.kubernetes.io/pciBusID", text("0000:41:00.0")), "");
        assert!(attribute("1st", text("a")).contains("no name"));
        assert!(attribute("Bad_Domain/x", text("a")).contains("domain"));
        assert!(attribute("a", text(&"x".repeat(65))).contains("65 bytes"));
        let version = |text: &str| DeviceAttribute { version: Some(text.into()), ..DeviceAttribute::default() };
        assert_eq!(attribute("v", version("580.65.6")), "");
        assert!(attribute("v", version("580.65.06")).contains("semantic version"));
        assert!(attribute("v", DeviceAttribute { int: Some(1), ..text("a") }).contains("more than one value"));
    }

    #[test]
    fn more_properties_than_the_api_takes_are_refused() {
        let attributes = (0..33).map(|n| (format!("a{n}"), text("x"))).collect();
        assert!(with(|device| device.attributes = Some(attributes)).contains("33 attributes"));
    }

    #[test]
    fn a_policy_whose_default_could_not_be_asked_for_is_refused() {
        let quantity = |text: &str| Quantity(text.to_owned());
        let policy = |default: Option<&str>, max: &str| {
            let range = CapacityRequestPolicyRange {
                min: quantity("1Gi"),
                max: Some(quantity(max)),
                step: Some(quantity("1Gi")),
            };
            let policy = CapacityRequestPolicy {
                default: default.map(quantity),
                valid_range: Some(range),
                ..CapacityRequestPolicy::default()
            };
            let capacity = DeviceCapacity { value: quantity("80Gi"), request_policy: Some(policy) };
            with(|device| {
                device.allow_multiple_allocations = Some(true);
                device.capacity = Some([("memory".to_owned(), capacity)].into());
            })
        };
        assert_eq!(policy(Some("8Gi"), "80Gi"), "");
        assert!(policy(None, "80Gi").contains("needs a default"));
        assert!(policy(Some("81Gi"), "80Gi").contains("out of its validRange"));
        assert!(policy(Some("1500Mi"), "80Gi").contains("no step"));
        assert!(policy(Some("8Gi"), "80000Mi").contains("maximum"));
    }

    #[test]
    fn counters_must_be_there() {
        let consumed = DeviceCounterConsumption { counter_set: "none".into(), ..DeviceCounterConsumption::default() };
        assert!(with(|device| device.consumes_counters = Some(vec![consumed])).contains("names no counter set"));
    }
}
