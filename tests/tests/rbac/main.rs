//! The driver's permissions: it does all that its roles grant, it does nothing else, and a real API server agrees.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod cluster;
mod driver;
mod enforced;
mod nodes;

use std::collections::BTreeSet;

use aliquot_tests::testbed::{DRIVER, Result, rules};
use fake_apiserver::{Asked, Rule};

const BASE: &str = include_str!("../../../deploy/base/rbac.yaml");
const GUARD: &str = include_str!("../../../deploy/components/guard/rbac.yaml");
/// What entries of `status.devices` take a permission for, by the name of their driver (Kubernetes 1.36).
const DRIVERS: &str = "resourceclaims/driver";

/// All that the driver is granted: the base's role, and that of component `guard`.
fn all() -> Result<Vec<Rule>> {
    Ok([rules(BASE, "aliquot-driver")?, rules(GUARD, "aliquot-driver-guard")?].concat())
}

/// What each of the driver's rules grants: one verb on one resource each.
fn granted() -> Result<BTreeSet<Asked>> {
    let mut granted = BTreeSet::new();
    for Rule { api_groups, resources, resource_names, verbs } in all()? {
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

/// The roles without one of its permissions.
fn without(removed: &Asked) -> Result<Vec<Rule>> {
    let mut rules = all()?;
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
