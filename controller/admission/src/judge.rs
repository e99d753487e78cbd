//! What is wrong with the parameters in one object, field by field. Pure.
//!
//! It refuses nothing that the driver would prepare: [`aliquot_params::decode`] is what the driver calls too, and the rest
//! is what the driver refuses whatever device a request gets.
use std::{collections::BTreeMap, fmt};

use aliquot_params::Config;
use serde_json::Value;

/// How much of a list is judged. The API server takes no list of more than 32 configurations or requests, so all is.
const LONGEST: usize = 64;

/// The kinds of objects with parameters. Where these are is the same in `v1`, `v1beta2` and `v1beta1` of
/// `resource.k8s.io`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// A `ResourceClaim`.
    Claim,
    /// A `ResourceClaimTemplate`.
    Template,
    /// A `DeviceClass`.
    Class,
}

impl Carrier {
    /// By the name of the resource in group `resource.k8s.io`.
    pub fn of(resource: &str) -> Option<Self> {
        [Self::Claim, Self::Template, Self::Class].into_iter().find(|carrier| carrier.resource() == resource)
    }

    /// The name of the resource.
    pub fn resource(self) -> &'static str {
        match self {
            Self::Claim => "resourceclaims",
            Self::Template => "resourceclaimtemplates",
            Self::Class => "deviceclasses",
        }
    }

    /// The fields that lead to the list `config`.
    fn parents(self) -> &'static [&'static str] {
        match self {
            Self::Claim => &["spec", "devices"],
            Self::Template => &["spec", "spec", "devices"],
            Self::Class => &["spec"],
        }
    }

    fn list<'a>(self, object: &'a Value, name: &str) -> &'a [Value] {
        let parent = self.parents().iter().try_fold(object, |value, field| value.get(field));
        let list = parent.and_then(|parent| parent.get(name)).and_then(Value::as_array);
        list.map(|list| &list[..list.len().min(LONGEST)]).unwrap_or_default()
    }
}

/// One field that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its path in the object, such as `spec.devices.config[2].opaque.parameters.sharing.strategy`.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.reason)
    }
}

/// Everything that is wrong with the parameters for `driver` that an object has and its `old` version, if any, didn't.
///
/// What was there before stays: an object from before these checks must not keep others from being mended. Nothing that
/// is being deleted is judged.
pub fn judge(carrier: Carrier, driver: &str, object: &Value, old: Option<&Value>) -> Vec<Finding> {
    if object.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null()) {
        return Vec::new();
    }
    let before = old.map(|old| carrier.list(old, "config")).unwrap_or_default();
    let configs = carrier.list(object, "config");
    let alternatives = with_alternatives(carrier.list(object, "requests"));
    let mut findings = Vec::new();
    let mut kinds: BTreeMap<&str, (usize, Config)> = BTreeMap::new();
    let path = carrier.parents().join(".");
    let ours = |config: &Value| config.pointer("/opaque/driver").and_then(Value::as_str) == Some(driver);
    for (at, config) in configs.iter().enumerate().filter(|(_, config)| ours(config)) {
        if before.contains(config) {
            continue;
        }
        let field = format!("{path}.config[{at}].opaque.parameters");
        match aliquot_params::decode(config.pointer("/opaque/parameters").unwrap_or(&Value::Null)) {
            Ok(decoded) => clash(decoded, config, (at, &field), &alternatives, &mut kinds, &mut findings),
            Err(faults) => findings.extend(faults.iter().map(|fault| Finding {
                field: if fault.path().is_empty() { field.clone() } else { format!("{field}.{}", fault.path()) },
                reason: fault.reason().to_owned(),
            })),
        }
    }
    findings
}

/// Requests with `firstAvailable`: what names one of them may be meant for some of its alternatives only.
fn with_alternatives(requests: &[Value]) -> Vec<String> {
    let with = requests.iter().filter(|request| request.get("firstAvailable").is_some_and(Value::is_array));
    with.filter_map(|request| Some(request.get("name")?.as_str()?.to_owned())).collect()
}

/// Two kinds for one request: whatever device it gets, one of the two can't apply.
fn clash<'a>(
    decoded: Config,
    config: &'a Value,
    (at, field): (usize, &str),
    alternatives: &[String],
    kinds: &mut BTreeMap<&'a str, (usize, Config)>,
    findings: &mut Vec<Finding>,
) {
    let requests = config.get("requests").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    for request in requests.filter(|request| !alternatives.iter().any(|name| name == request)) {
        let (first, other) = *kinds.entry(request).or_insert((at, decoded));
        if !other.fits(decoded) {
            findings.push(Finding {
                field: format!("{field}.kind"),
                reason: format!(
                    "is {:?}, but config[{first}] gives request {request:?} a {}: a device takes only one of the two",
                    decoded.kind(),
                    other.kind()
                ),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const DRIVER: &str = "gpu.aliquot.dev";

    fn config(requests: &[&str], parameters: &Value) -> Value {
        json!({"requests": requests, "opaque": {"driver": DRIVER, "parameters": parameters}})
    }

    fn good(kind: &str) -> Value {
        json!({"apiVersion": "gpu.aliquot.dev/v1alpha1", "kind": kind})
    }

    fn bad() -> Value {
        json!({"apiVersion": "gpu.aliquot.dev/v1", "kind": "ShareConfig", "sharing": {"strategy": "MPS"}})
    }

    fn claim(configs: &[Value]) -> Value {
        json!({"spec": {"devices": {"requests": [
            {"name": "gpu", "exactly": {"deviceClassName": "gpu.aliquot.dev"}},
            {"name": "any", "firstAvailable": [{"name": "whole"}, {"name": "part"}]}], "config": configs}}})
    }

    fn told(carrier: Carrier, object: &Value, old: Option<&Value>) -> Vec<String> {
        judge(carrier, DRIVER, object, old).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_fault_is_told_with_its_path_in_the_kind_of_object() {
        let configs = [config(&[], &good("GpuConfig")), config(&[], &bad())];
        let devices = json!({"config": configs});
        for (carrier, object, path) in [
            (Carrier::Claim, json!({"spec": {"devices": devices}}), "spec.devices"),
            (Carrier::Template, json!({"spec": {"spec": {"devices": devices}}}), "spec.spec.devices"),
            (Carrier::Class, json!({"spec": devices}), "spec"),
        ] {
            let told = told(carrier, &object, None);
            let parameters = format!("{path}.config[1].opaque.parameters");
            assert_eq!(
                told,
                [
                    format!(
                        "{parameters}.apiVersion: is \"gpu.aliquot.dev/v1\", but must be one of \
                         gpu.aliquot.dev/v1alpha1, resource.nvidia.com/v1beta1"
                    ),
                    format!(
                        "{parameters}.sharing.strategy: is \"MPS\", but must be \"TimeSlicing\": there is no MPS here, and \
                         shares of GPUs take its place"
                    ),
                ]
            );
        }
    }

    #[test]
    fn parameters_that_are_no_object_are_told_at_their_own_path() {
        let missing = json!({"opaque": {"driver": DRIVER}});
        let told = told(Carrier::Claim, &claim(&[config(&[], &json!("Short")), missing]), None);
        assert_eq!(
            told,
            [
                "spec.devices.config[0].opaque.parameters: is a text, but must be an object with apiVersion and kind",
                "spec.devices.config[1].opaque.parameters: is null, but must be an object with apiVersion and kind",
            ]
        );
    }

    #[test]
    fn other_drivers_parameters_are_no_business_of_ours() {
        let other = json!({"opaque": {"driver": "gpu.example.com", "parameters": bad()}});
        assert!(told(Carrier::Claim, &claim(&[other]), None).is_empty());
    }

    #[test]
    fn under_the_name_of_nvidias_driver_its_claims_are_judged_by_its_own_parameters() {
        let config = |sharing: Value| {
            let parameters =
                json!({"apiVersion": "resource.nvidia.com/v1beta1", "kind": "GpuConfig", "sharing": sharing});
            json!({"opaque": {"driver": "gpu.nvidia.com", "parameters": parameters}})
        };
        let sliced = json!({"strategy": "TimeSlicing", "timeSlicingConfig": {"interval": "Long"}});
        let mps = json!({"strategy": "MPS", "mpsConfig": {"defaultActiveThreadPercentage": 50}});
        let findings = judge(Carrier::Claim, "gpu.nvidia.com", &claim(&[config(sliced), config(mps)]), None);
        let fields: Vec<&str> = findings.iter().map(|finding| finding.field.as_str()).collect();
        let at = |field: &str| format!("spec.devices.config[1].opaque.parameters.sharing.{field}");
        assert_eq!(fields, [at("mpsConfig"), at("strategy")]);
    }

    #[test]
    fn what_was_there_before_stays() {
        let old = claim(&[config(&[], &good("GpuConfig")), config(&[], &bad())]);
        let new = claim(&[config(&[], &bad()), config(&["gpu"], &bad())]);
        let told = told(Carrier::Claim, &new, Some(&old));
        assert!(told.iter().all(|text| text.starts_with("spec.devices.config[1]")), "{told:?}");
        assert_eq!(told.len(), 2);
    }

    #[test]
    fn a_list_longer_than_any_is_judged_in_part() {
        let told = told(Carrier::Claim, &claim(&vec![config(&[], &json!(null)); 2 * LONGEST]), None);
        assert_eq!(told.len(), LONGEST);
    }

    #[test]
    fn nothing_that_is_being_deleted_is_judged() {
        let mut object = claim(&[config(&[], &bad())]);
        object["metadata"] = json!({"deletionTimestamp": "2026-11-21T12:00:00Z", "finalizers": []});
        assert!(told(Carrier::Claim, &object, None).is_empty());
    }

    #[test]
    fn a_request_with_two_kinds_is_told_as_the_driver_would_refuse_it() {
        let clash = claim(&[config(&["gpu"], &good("GpuConfig")), config(&["any/part", "gpu"], &good("ShareConfig"))]);
        assert_eq!(
            told(Carrier::Claim, &clash, None),
            [
                "spec.devices.config[1].opaque.parameters.kind: is \"ShareConfig\", but config[0] gives request \"gpu\" a \
              GpuConfig: a device takes only one of the two"
            ]
        );
        let nvidias = json!({"apiVersion": "resource.nvidia.com/v1beta1", "kind": "GpuConfig"});
        for fine in [
            [config(&[], &good("GpuConfig")), config(&[], &good("ShareConfig"))],
            [config(&["any"], &good("GpuConfig")), config(&["any"], &good("ShareConfig"))],
            [config(&["any/whole"], &good("GpuConfig")), config(&["any/part"], &good("ShareConfig"))],
            [config(&["gpu"], &good("GpuConfig")), config(&[], &good("ShareConfig"))],
            [config(&["gpu"], &good("ShareConfig")), config(&["gpu"], &nvidias)],
        ] {
            assert!(told(Carrier::Claim, &claim(&fine), None).is_empty());
        }
    }

    proptest! {
        #[test]
        fn an_update_that_changes_nothing_is_never_refused(kind in "[A-Z][a-z]{0,9}Config", strategy in "[A-Za-z]{0,8}") {
            let parameters = json!({"kind": kind, "sharing": {"strategy": strategy}});
            let object = claim(&[config(&["gpu"], &parameters)]);
            prop_assert!(judge(Carrier::Claim, DRIVER, &object, Some(&object)).is_empty());
        }
    }
}
