//! The driver's permissions: it does all that its role grants, it does nothing else, and a real API server agrees.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod cluster;
mod driver;
mod enforced;
mod nodes;

use std::collections::BTreeSet;

use aliquot_tests::testbed::{DRIVER, Result, rules};
use fake_apiserver::{Asked, Rule};

const RBAC: &str = include_str!("../../../deploy/base/rbac.yaml");
/// What entries of `status.devices` take a permission for, by the name of their driver (Kubernetes 1.36).
const DRIVERS: &str = "resourceclaims/driver";
/// The role's name.
const ROLE: &str = "aliquot-driver";

/// What each of the driver's rules grants: one verb on one resource each.
fn granted() -> Result<BTreeSet<Asked>> {
    let mut granted = BTreeSet::new();
    for Rule { api_groups, resources, resource_names, verbs } in rules(RBAC, ROLE)? {
        assert_eq!(resource_names, if resources == [DRIVERS] { vec![DRIVER] } else { vec![] });
        for group in &api_groups {
            for resource in &resources {
                for verb in &verbs {
                    let (verb, group, resource) = (verb.clone(), group.clone(), resource.clone());
                    assert!(
                        granted.insert(Asked { verb, group, resource, name: resource_names.first().cloned() }),
                        "granted twice"
                    );
                }
            }
        }
    }
    Ok(granted)
}

/// The role without one of its permissions.
fn without(removed: &Asked) -> Result<Vec<Rule>> {
    let mut rules = rules(RBAC, ROLE)?;
    let has = |list: &[String], one: &String| list.contains(one);
    for rule in rules.iter_mut().filter(|rule| has(&rule.api_groups, &removed.group)) {
        if has(&rule.resources, &removed.resource) {
            assert_eq!(rule.resources.len(), 1, "one resource a rule, so that one verb can be taken away");
            rule.verbs.retain(|verb| *verb != removed.verb);
        }
    }
    rules.retain(|rule| !rule.verbs.is_empty());
    Ok(rules)
}
