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

/// All of it: no more than `deploy/base/rbac.yaml` grants, and no less.
pub(super) const NEEDS: [Need; 7] = [
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
    Need { group: "", resource: "pods/eviction", verbs: &["create"], of: Of::All },
    Need { group: "events.k8s.io", resource: "events", verbs: &["create", "patch"], of: Of::All },
];

/// `refused` is what of [`NEEDS`] the API server would not allow, in words.
pub(super) fn judge(user: &Answer<String>, refused: &Answer<Vec<String>>) -> Check {
    let is_person = user.as_deref().is_ok_and(|user| !user.starts_with("system:serviceaccount:"));
    let user = user.as_deref().map(|user| format!(" to {user}")).unwrap_or_default();
    match refused {
        Err(error) => Check::skipped(NAME, error.reason.clone()),
        Ok(refused) if refused.is_empty() => {
            let note = if is_person { "; the driver's own account is judged where it runs" } else { "" };
            Check::ok(NAME, format!("all that the driver does is allowed{user}{note}"))
        }
        Ok(refused) => Check::failed(
            NAME,
            format!("not allowed{user}: {}", refused.join(", ")),
            "kubectl apply -k deploy/base, and run the driver as its service account aliquot-driver",
        ),
    }
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

    #[test]
    fn what_is_needed_is_what_the_deployment_grants() {
        let objects = include_str!("../../../deploy/base/rbac.yaml").split("\n---\n");
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
        let mut needed: Vec<String> = NEEDS
            .iter()
            .flat_map(|need| {
                need.verbs.iter().map(|verb| format!("{verb} {} {} {:?}", need.group, need.resource, need.of))
            })
            .collect();
        granted.sort();
        needed.sort();
        assert_eq!(needed, granted);
    }

    #[test]
    fn what_is_refused_is_named_with_who_asked() {
        let user = Ok("system:serviceaccount:aliquot:default".to_owned());
        let check = judge(&user, &Ok(vec!["create events".into()]));
        assert_eq!(check.verdict, Verdict::Failed);
        assert_eq!(check.found, "not allowed to system:serviceaccount:aliquot:default: create events");
        assert!(check.fix.unwrap().starts_with("kubectl apply -k deploy/base"));
        assert_eq!(judge(&Err(Unanswered::away("no")), &Ok(vec![])).verdict, Verdict::Ok);
        assert!(judge(&Ok("admin".into()), &Ok(vec![])).found.contains("own account"));
        assert!(!judge(&user, &Ok(vec![])).found.contains("own account"));
        assert_eq!(judge(&user, &Err(Unanswered::away("no"))).verdict, Verdict::Skipped);
    }
}
