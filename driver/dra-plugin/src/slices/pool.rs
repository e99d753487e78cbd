//! What a driver publishes: one node's pool of devices.
use std::fmt;

use k8s_openapi::api::resource::v1::{CounterSet, Device};

use crate::name::is_dns_subdomain;

/// Longest pool name and longest node name that Kubernetes accepts, in bytes.
const LONGEST: usize = 253;

/// A name that Kubernetes would refuse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is not a {what} name: it must be {rule}, of at most {LONGEST} bytes")]
pub struct InvalidName {
    name: String,
    what: &'static str,
    rule: &'static str,
}

/// A pool's name: one or more DNS subdomains separated by `/`, together at most 253 bytes.
///
/// Make it unique in the cluster, across drivers too (for instance `<driver>/<node>`): schedulers before the fix of
/// kubernetes/kubernetes#140435 keep the counters of equally named pools of two drivers in one place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolName(String);

impl PoolName {
    /// Checks `name` against the rules of `ResourceSlice.spec.pool.name`.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidName> {
        let name = name.into();
        if name.len() <= LONGEST && name.split('/').all(is_dns_subdomain) {
            Ok(Self(name))
        } else {
            Err(InvalidName { name, what: "pool", rule: "DNS subdomains in lower case, separated by \"/\"" })
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PoolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of the Node object on which the driver runs: a DNS subdomain of at most 253 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(String);

impl NodeName {
    /// Checks `name` against the rules of `Node.metadata.name`.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidName> {
        let name = name.into();
        if name.len() <= LONGEST && is_dns_subdomain(&name) {
            Ok(Self(name))
        } else {
            Err(InvalidName { name, what: "node", rule: "a DNS subdomain in lower case" })
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Everything that the driver has to offer on its node.
///
/// The order of `devices` is the order in which the scheduler tries them (from Kubernetes 1.36 on; first fit). A pool
/// without devices says "the driver is here and has none", which is not the same as no pool at all.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// The pool's name. Slices of this driver and node in any other pool are removed.
    pub name: PoolName,
    /// The devices, each name once. How many fit into one slice is the publisher's business.
    pub devices: Vec<Device>,
    /// The counter sets that devices consume (KEP-4815), each name once.
    pub counters: Vec<CounterSet>,
}

impl Pool {
    /// A pool without devices.
    pub fn empty(name: PoolName) -> Self {
        Self { name, devices: Vec::new(), counters: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pool_names_may_have_parts_and_node_names_may_not() {
        assert_eq!(PoolName::new("gpu.example.com/node-1").unwrap().as_str(), "gpu.example.com/node-1");
        assert!(NodeName::new("gpu.example.com/node-1").is_err());
        assert_eq!(NodeName::new("node-1.example").unwrap().to_string(), "node-1.example");
    }

    #[test]
    fn names_that_would_change_the_meaning_of_a_field_selector_are_refused() {
        for name in ["", "a,spec.driver=other", "a=b", "A", "a//b", "/a", "a b", &"x".repeat(254)] {
            assert!(NodeName::new(name).is_err(), "{name:?}");
            assert!(PoolName::new(name).is_err(), "{name:?}");
        }
    }
}
