//! What a driver is told about a claim, and what it answers: only its own part, in the order that Kubernetes defines.
use std::{collections::BTreeMap, fmt};

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::{name::is_dns_subdomain, slices::quantity::Amount};

/// The UID of a claim: not empty, at most 64 bytes of `[A-Za-z0-9._-]`, not beginning with a dot; so it can be part of a
/// file name.
///
/// Kubernetes promises no more about UIDs than that they are unique, so this is not a UUID.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClaimUid(String);

impl ClaimUid {
    /// Checks `uid`; [`InvalidClaim::Uid`] if it could not safely be part of a file name.
    pub fn new(uid: impl Into<String>) -> Result<Self, InvalidClaim> {
        let uid = uid.into();
        let plain = uid.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if plain && (1..=64).contains(&uid.len()) && !uid.starts_with('.') {
            Ok(Self(uid))
        } else {
            Err(InvalidClaim::Uid(uid))
        }
    }

    /// The UID as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClaimUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a claim reference from the kubelet cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidClaim {
    /// The UID is empty, too long, or has characters that do not belong in a file name.
    #[error(
        "{0:?} is not a claim UID: 1 to 64 of the characters A-Z a-z 0-9 - _ . are expected, not beginning with '.'"
    )]
    Uid(String),
    /// The namespace is not a DNS label.
    #[error("{0:?} is not a namespace name")]
    Namespace(String),
    /// The name is not a DNS subdomain.
    #[error("{0:?} is not the name of a ResourceClaim")]
    Name(String),
}

/// Which claim: the UID decides, namespace and name say where to look.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClaimRef {
    namespace: String,
    name: String,
    uid: ClaimUid,
}

impl ClaimRef {
    /// Checks that all three can be part of a URL and of a file name.
    pub fn new(
        namespace: impl Into<String>,
        name: impl Into<String>,
        uid: impl Into<String>,
    ) -> Result<Self, InvalidClaim> {
        let (namespace, name) = (namespace.into(), name.into());
        if namespace.len() > 63 || namespace.contains('.') || !is_dns_subdomain(&namespace) {
            return Err(InvalidClaim::Namespace(namespace));
        }
        if name.len() > 253 || !is_dns_subdomain(&name) {
            return Err(InvalidClaim::Name(name));
        }
        Ok(Self { namespace, name, uid: ClaimUid::new(uid)? })
    }

    /// The namespace of the `ResourceClaim`.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name of the `ResourceClaim` in its namespace.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The UID that the kubelet named.
    pub fn uid(&self) -> &ClaimUid {
        &self.uid
    }
}

/// `namespace/name`, as users know the object.
impl fmt::Display for ClaimRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A claim with the part of its allocation that belongs to one driver.
#[derive(Clone, Debug, PartialEq)]
pub struct AllocatedClaim {
    /// Which claim.
    pub claim: ClaimRef,
    /// This driver's devices in the order of the allocation; never empty.
    pub results: Vec<DeviceResult>,
    /// This driver's opaque configuration: that of the class before that of the claim, otherwise in API order. Where
    /// several match one device, later ones override (KEP-4381).
    pub configs: Vec<OpaqueConfig>,
    /// The pods that may use the claim. Consumers of other kinds are left out.
    pub reserved_for: Vec<PodRef>,
    /// What its pod calls it, where it was made of a template; it's checked to be a DNS label.
    pub pod_claim: Option<String>,
}

impl AllocatedClaim {
    /// The configuration that applies to `result`, least specific first.
    pub fn configs_for<'a>(&'a self, result: &'a DeviceResult) -> impl Iterator<Item = &'a OpaqueConfig> {
        self.configs.iter().filter(|config| config.matches(&result.request))
    }
}

/// A pod in `status.reservedFor`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodRef {
    /// The pod's name; its namespace is the claim's.
    pub name: String,
    /// The pod's UID.
    pub uid: String,
}

/// One allocated device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceResult {
    /// The request that the device satisfies.
    pub request: RequestName,
    /// The pool of the device.
    pub pool: String,
    /// The device's name in its pool.
    pub device: String,
    /// Allocated for administration: the device may be in use by others and must not be reconfigured (KEP-5018).
    pub admin_access: bool,
    /// Which share of a device that allows several allocations (KEP-5075).
    pub share_id: Option<String>,
    /// How much of each capacity this share takes, as Kubernetes quantities (KEP-5075).
    pub consumed_capacity: BTreeMap<String, String>,
}

impl DeviceResult {
    /// How much this share takes of a capacity, in whole units; none where the result doesn't say.
    pub fn consumed(&self, capacity: &str) -> Option<u64> {
        let quantity = Quantity(self.consumed_capacity.get(capacity)?.clone());
        Amount::of(&quantity)?.whole()
    }
}

/// A request's name, with the sub-request that `firstAvailable` chose (KEP-4816).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestName {
    base: String,
    subrequest: Option<String>,
}

impl RequestName {
    /// Parses `request` or `request/subrequest`.
    pub fn parse(text: &str) -> Self {
        match text.split_once('/') {
            Some((base, sub)) => Self { base: base.to_owned(), subrequest: Some(sub.to_owned()) },
            None => Self { base: text.to_owned(), subrequest: None },
        }
    }

    /// The request in `spec.devices.requests`: what the kubelet wants to hear in an answer.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The chosen entry of `firstAvailable`.
    pub fn subrequest(&self) -> Option<&str> {
        self.subrequest.as_deref()
    }
}

impl fmt::Display for RequestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.base)?;
        self.subrequest.iter().try_for_each(|sub| write!(f, "/{sub}"))
    }
}

/// Who wrote a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConfigSource {
    /// The administrator, in a `DeviceClass`.
    Class,
    /// The user, in a `ResourceClaim`.
    Claim,
}

impl fmt::Display for ConfigSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Class => "DeviceClass",
            Self::Claim => "ResourceClaim",
        })
    }
}

/// Parameters that only this driver understands.
#[derive(Clone, Debug, PartialEq)]
pub struct OpaqueConfig {
    /// Who wrote it.
    pub source: ConfigSource,
    /// The requests it is for, as `request` or `request/subrequest`; empty means all.
    pub requests: Vec<String>,
    /// The parameters as written; decoding them strictly is the driver's job.
    pub parameters: serde_json::Value,
}

impl OpaqueConfig {
    /// Whether this is for `request`: it names no request, that very (sub-)request, or the request that a sub-request is
    /// part of.
    pub fn matches(&self, request: &RequestName) -> bool {
        self.requests.is_empty()
            || self.requests.iter().any(|named| {
                let named = RequestName::parse(named);
                named == *request || (named.subrequest.is_none() && named.base == request.base)
            })
    }
}

/// A device that a container can now be given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedDevice {
    /// The requests that it satisfies, without sub-request. With none the kubelet would hand the device to every container
    /// of the claim, so a driver fills this in.
    pub request_names: Vec<String>,
    /// The pool of the device.
    pub pool: String,
    /// The device's name in its pool.
    pub device: String,
    /// Fully qualified CDI names (`vendor/class=name`); none if there is nothing to inject.
    pub cdi_ids: Vec<String>,
    /// The share that was allocated, if any.
    pub share_id: Option<String>,
}

impl PreparedDevice {
    /// The answer for `result`, with the request's base name and the share ID echoed as the kubelet wants them.
    pub fn of(result: &DeviceResult, cdi_ids: Vec<String>) -> Self {
        Self {
            request_names: vec![result.request.base().to_owned()],
            pool: result.pool.clone(),
            device: result.device.clone(),
            cdi_ids,
            share_id: result.share_id.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn config(requests: &[&str]) -> OpaqueConfig {
        OpaqueConfig {
            source: ConfigSource::Claim,
            requests: requests.iter().map(ToString::to_string).collect(),
            parameters: serde_json::Value::Null,
        }
    }

    #[test]
    fn a_config_matches_all_its_request_its_subrequest_or_the_base_of_a_subrequest() {
        let (plain, sub) = (RequestName::parse("gpu"), RequestName::parse("gpu/big"));
        for (requests, on_plain, on_sub) in [
            (&[][..], true, true),
            (&["gpu"], true, true),
            (&["gpu/big"], false, true),
            (&["gpu/small"], false, false),
            (&["nic"], false, false),
            (&["nic", "gpu"], true, true),
            (&["big"], false, false),
        ] {
            assert_eq!(config(requests).matches(&plain), on_plain, "{requests:?} on gpu");
            assert_eq!(config(requests).matches(&sub), on_sub, "{requests:?} on gpu/big");
        }
    }

    #[test]
    fn what_the_kubelet_hears_is_the_base_request_and_the_share() {
        let result = DeviceResult {
            request: RequestName::parse("gpu/small"),
            pool: "node1".into(),
            device: "gpu-0".into(),
            admin_access: false,
            share_id: Some("s1".into()),
            consumed_capacity: BTreeMap::new(),
        };
        let prepared = PreparedDevice::of(&result, vec![]);
        assert_eq!((prepared.request_names, prepared.share_id), (vec!["gpu".to_owned()], Some("s1".to_owned())));
    }

    #[test]
    fn references_that_would_leave_a_url_or_a_directory_are_refused() {
        for (namespace, name, uid) in [
            ("a/b", "c", "u"),
            ("a", "../c", "u"),
            ("a", "c", "../u"),
            ("a", "c", ""),
            ("", "c", "u"),
            ("a", "c?x", "u"),
        ] {
            assert!(ClaimRef::new(namespace, name, uid).is_err(), "{namespace} {name} {uid}");
        }
        assert!(ClaimRef::new("default", "pod.claim-x", "7f6b-0_A.1").is_ok());
    }

    proptest! {
        #[test]
        fn every_accepted_uid_is_one_plain_path_component(uid in "\\PC{0,70}") {
            if let Ok(uid) = ClaimUid::new(uid) {
                let path = std::path::Path::new(uid.as_str());
                prop_assert_eq!(path.components().count(), 1);
                prop_assert_eq!(path.file_name().and_then(|n| n.to_str()), Some(uid.as_str()));
            }
        }

        #[test]
        fn a_request_name_prints_as_it_was_written(text in "[a-z]{1,5}(/[a-z]{1,5})?") {
            prop_assert_eq!(RequestName::parse(&text).to_string(), text);
        }
    }
}
