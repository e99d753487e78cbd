//! What clients with a token may do: the rules of RBAC, and what was asked of them.
use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

/// A rule of a `Role` or `ClusterRole`, as in its YAML.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// Empty text for the core group.
    pub api_groups: Vec<String>,
    /// With their subresource: `pods/eviction`.
    pub resources: Vec<String>,
    /// Empty for any.
    #[serde(default)]
    pub resource_names: Vec<String>,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete` or `deletecollection`.
    pub verbs: Vec<String>,
}

/// What was asked to do with objects.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked {
    /// As in a rule; a dry run has that of the real thing.
    pub verb: String,
    /// As in a rule.
    pub group: String,
    /// As in a rule.
    pub resource: String,
    /// The object's; for lists and watches, the one that the field selector names.
    pub name: Option<String>,
}

impl Rule {
    /// Whether it allows something.
    pub fn grants(&self, asked: &Asked) -> bool {
        let names = &self.resource_names;
        self.api_groups.contains(&asked.group)
            && self.resources.contains(&asked.resource)
            && self.verbs.contains(&asked.verb)
            && (names.is_empty() || asked.name.as_ref().is_some_and(|name| names.contains(name)))
    }
}

/// By token.
#[derive(Debug, Default)]
pub(crate) struct Permissions(BTreeMap<String, Account>);

#[derive(Debug, Default)]
struct Account {
    rules: Vec<Rule>,
    asked: BTreeSet<Asked>,
}

impl Permissions {
    pub(crate) fn set(&mut self, token: &str, rules: Vec<Rule>) {
        self.0.entry(token.to_owned()).or_default().rules = rules;
    }

    pub(crate) fn asked(&self, token: &str) -> BTreeSet<Asked> {
        self.0.get(token).map(|account| account.asked.clone()).unwrap_or_default()
    }

    /// Whether a request may go on. Who has no token, or one without rules, may do everything.
    pub(crate) fn allow(&mut self, token: Option<&str>, asked: &Asked) -> bool {
        let Some(account) = token.and_then(|token| self.0.get_mut(token)) else { return true };
        account.asked.insert(asked.clone());
        account.rules.iter().any(|rule| rule.grants(asked))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(verb: &str, resource: &str, name: Option<&str>) -> Asked {
        let (verb, resource) = (verb.to_owned(), resource.to_owned());
        Asked { verb, group: String::new(), resource, name: name.map(ToOwned::to_owned) }
    }

    fn rule(names: &[&str]) -> Rule {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Rule {
            api_groups: owned(&[""]),
            resources: owned(&["pods/eviction", "secrets"]),
            resource_names: owned(names),
            verbs: owned(&["create", "list"]),
        }
    }

    #[test]
    fn a_rule_grants_its_verbs_on_its_resources_and_no_others() {
        assert!(rule(&[]).grants(&asked("create", "pods/eviction", Some("a"))));
        for (verb, resource) in [("delete", "pods/eviction"), ("create", "pods"), ("create", "pods/status")] {
            assert!(!rule(&[]).grants(&asked(verb, resource, Some("a"))), "{verb} {resource}");
        }
        let other = Asked { group: "apps".to_owned(), ..asked("create", "secrets", None) };
        assert!(!rule(&[]).grants(&other));
    }

    #[test]
    fn a_rule_with_names_grants_nothing_without_one() {
        assert!(rule(&["mine"]).grants(&asked("list", "secrets", Some("mine"))));
        assert!(!rule(&["mine"]).grants(&asked("list", "secrets", Some("other"))));
        assert!(!rule(&["mine"]).grants(&asked("list", "secrets", None)));
    }

    #[test]
    fn who_has_no_rules_may_do_everything_and_who_has_is_remembered() {
        let mut permissions = Permissions::default();
        permissions.set("driver", vec![rule(&[])]);
        let (fine, wrong) = (asked("list", "secrets", None), asked("delete", "secrets", Some("a")));
        assert!(permissions.allow(None, &wrong) && permissions.allow(Some("admin"), &wrong));
        assert!(permissions.allow(Some("driver"), &fine) && !permissions.allow(Some("driver"), &wrong));
        assert_eq!(permissions.asked("driver"), BTreeSet::from([fine, wrong]));
    }
}
