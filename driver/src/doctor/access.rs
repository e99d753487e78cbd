//! Check `permissions`: whoever this process is to the API server may do all that the driver does.
use super::{api::Answer, check::Check};

const NAME: &str = "permissions";

/// What the driver does with a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Need {
    pub(super) group: &'static str,
    /// With its subresource, as in a `ClusterRole`.
    pub(super) resource: &'static str,
    pub(super) verbs: &'static [&'static str],
    pub(super) of: Of,
}

/// With which objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    All,
    /// With what is named like the driver.
    Driver,
}

/// All that it does whatever it is told: no more than `deploy/base/rbac.yaml` grants, and no less.
pub(super) const NEEDS: [Need; 6] = [
    Need { group: "resource.k8s.io", resource: "resourceclaims", verbs: &["get"], of: Of::All },
    Need { group: "resource.k8s.io", resource: "resourceclaims/status", verbs: &["patch"], of: Of::All },
    Need {
        group: "resource.k8s.io",
        resource: "resourceclaims/driver",
        verbs: &["associated-node:patch"],
        of: Of::Driver,
    },
    Need {
        group: "resource.k8s.io",
        resource: "resourceslices",
        verbs: &["get", "list", "watch", "create", "update", "delete"],
        of: Of::All,
    },
    Need { group: "", resource: "nodes", verbs: &["get"], of: Of::All },
    Need { group: "events.k8s.io", resource: "events", verbs: &["create", "patch"], of: Of::All },
];

/// What it does where the policy has pods evicted: what component `guard` grants.
pub(super) const EVICTION: Need = Need { group: "", resource: "pods/eviction", verbs: &["create"], of: Of::All };

/// What the API server would not allow, in words.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Refused {
    /// Of [`NEEDS`].
    pub(super) always: Vec<String>,
    /// Of [`EVICTION`].
    pub(super) eviction: Option<String>,
}

/// `evicts`: whether the policy has pods evicted.
pub(super) fn judge(user: &Answer<String>, refused: &Answer<Refused>, evicts: bool) -> Check {
    let is_person = user.as_deref().is_ok_and(|user| !user.starts_with("system:serviceaccount:"));
    let user = user.as_deref().map(|user| format!(" to {user}")).unwrap_or_default();
    let Refused { always, eviction } = match refused {
        Err(error) => return Check::skipped(NAME, error.reason.clone()),
        Ok(refused) => refused,
    };
    let eviction = eviction.as_ref().filter(|_| evicts);
    let all: Vec<&str> = always.iter().chain(eviction).map(String::as_str).collect();
    if all.is_empty() {
        let note = if is_person { "; the driver's own account is judged where it runs" } else { "" };
        return Check::ok(NAME, format!("all that the driver does is allowed{user}{note}"));
    }
    let fix = if always.is_empty() {
        "deploy with component deploy/components/guard, or take guard: {mode: evict} out of the policy"
    } else {
        "kubectl apply -k deploy/base (or your overlay), and run the driver as its service account aliquot-driver"
    };
    Check::failed(NAME, format!("not allowed{user}: {}", all.join(", ")), fix)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::doctor::{api::Unanswered, check::Verdict};

    #[derive(Deserialize)]
    struct Object {
        kind: String,
        #[serde(default)]
        rules: Vec<Rule>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Rule {
        api_groups: Vec<String>,
        resources: Vec<String>,
        verbs: Vec<String>,
        #[serde(default)]
        resource_names: Vec<String>,
    }

    fn granted(manifest: &str) -> Vec<String> {
        let objects = manifest.split("\n---\n");
        let objects = objects.map(|text| serde_saphyr::from_str::<Object>(text).unwrap());
        let rules = objects.filter(|object| object.kind == "ClusterRole").flat_map(|object| object.rules);
        let mut granted: Vec<String> = rules
            .flat_map(|rule| {
                assert_eq!(rule.api_groups.len(), 1);
                let (group, verbs) = (rule.api_groups[0].clone(), rule.verbs.clone());
                let of = if rule.resource_names == ["gpu.aliquot.dev"] { Of::Driver } else { Of::All };
                let each = move |resource: String| {
                    let group = group.clone();
                    verbs.clone().into_iter().map(move |verb| format!("{verb} {group} {resource} {of:?}"))
                };
                rule.resources.into_iter().flat_map(each)
            })
            .collect();
        granted.sort();
        granted
    }

    fn needed(needs: &[Need]) -> Vec<String> {
        let mut needed: Vec<String> = needs
            .iter()
            .flat_map(|need| {
                need.verbs.iter().map(|verb| format!("{verb} {} {} {:?}", need.group, need.resource, need.of))
            })
            .collect();
        needed.sort();
        needed
    }

    #[test]
    fn what_is_needed_is_what_the_deployment_grants() {
        assert_eq!(needed(&NEEDS), granted(include_str!("../../../deploy/base/rbac.yaml")));
        assert_eq!(needed(&[EVICTION]), granted(include_str!("../../../deploy/components/guard/rbac.yaml")));
    }

    #[test]
    fn what_is_refused_is_named_with_who_asked() {
        let user = Ok("system:serviceaccount:aliquot:default".to_owned());
        let none = Ok(Refused::default());
        let check = judge(&user, &Ok(Refused { always: vec!["create events".into()], eviction: None }), false);
        assert_eq!(check.verdict, Verdict::Failed);
        assert_eq!(check.found, "not allowed to system:serviceaccount:aliquot:default: create events");
        assert!(check.fix.unwrap().starts_with("kubectl apply -k deploy/base"));
        assert_eq!(judge(&Err(Unanswered::away("no")), &none, true).verdict, Verdict::Ok);
        assert!(judge(&Ok("admin".into()), &none, true).found.contains("own account"));
        assert!(!judge(&user, &none, true).found.contains("own account"));
        assert_eq!(judge(&user, &Err(Unanswered::away("no")), true).verdict, Verdict::Skipped);
    }

    #[test]
    fn evictions_are_needed_only_where_the_policy_has_them() {
        let refused = Ok(Refused { always: vec![], eviction: Some("create pods/eviction".into()) });
        let user = Ok("system:serviceaccount:aliquot:aliquot-driver".to_owned());
        assert_eq!(judge(&user, &refused, false).verdict, Verdict::Ok);
        let check = judge(&user, &refused, true);
        assert!(check.verdict == Verdict::Failed && check.found.ends_with(": create pods/eviction"), "{}", check.found);
        assert!(check.fix.unwrap().contains("deploy/components/guard"));
    }
}
