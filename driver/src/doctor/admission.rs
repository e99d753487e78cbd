//! Check `admission-policy`: the API server refuses what the driver's account would write for another node.
use dra_plugin::slices::{Rehearsal, RehearsalError};

use super::{api::Answer, check::Check};

const NAME: &str = "admission-policy";

/// How the API server names a `ValidatingAdmissionPolicy` that refuses something.
const POLICY: &str = "ValidatingAdmissionPolicy";

/// One `ResourceSlice` that the driver has no business to write, sent as a dry run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Foreign {
    /// With the name of another node, in that node's pool.
    Node,
    /// With this node's name, in the pool of another one.
    Pool,
}

impl Foreign {
    /// Both.
    pub(super) const ALL: [Self; 2] = [Self::Node, Self::Pool];

    fn words(self) -> &'static str {
        match self {
            Self::Node => "of another node",
            Self::Pool => "in another node's pool",
        }
    }
}

/// What became of one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Tried {
    /// It would be stored.
    Taken,
    /// A policy refuses it.
    Denied,
    /// That says nothing about policies, for this reason.
    Unclear(String),
}

impl From<Result<Rehearsal, RehearsalError>> for Tried {
    fn from(rehearsed: Result<Rehearsal, RehearsalError>) -> Self {
        match rehearsed {
            Ok(Rehearsal::Complete | Rehearsal::Dropped(_)) => Self::Taken,
            Ok(Rehearsal::Invalid(reason)) | Err(RehearsalError::Refused { reason, .. }) if reason.contains(POLICY) => {
                Self::Denied
            }
            Ok(Rehearsal::Invalid(reason)) => Self::Unclear(reason),
            Err(error) => Self::Unclear(error.to_string()),
        }
    }
}

/// `tried` in the order of [`Foreign::ALL`], where it was tried. Whoever isn't a service account is held to nothing.
pub(super) fn judge(user: &Answer<String>, tried: &Answer<Vec<Tried>>) -> Check {
    let (user, tried) = match (user, tried) {
        (Ok(user), Ok(tried)) => (user, tried),
        (Err(error), _) | (_, Err(error)) => return Check::skipped(NAME, error.reason.clone()),
    };
    if !is_account(user) {
        return Check::skipped(
            NAME,
            format!(
                "it is for the driver's account, and not for {user}: kubectl -n aliquot exec ds/aliquot-driver -- \
                     aliquot-driver doctor tells"
            ),
        );
    }
    let each = || Foreign::ALL.into_iter().zip(tried);
    let taken: Vec<&str> =
        each().filter(|(_, tried)| **tried == Tried::Taken).map(|(foreign, _)| foreign.words()).collect();
    if !taken.is_empty() {
        return Check::warning(
            NAME,
            format!(
                "{user} may write ResourceSlices {} (dry run): whoever takes over this node can offer or take away devices \
                 elsewhere",
                taken.join(", and ")
            ),
            "kubectl apply -k deploy/base, which has the policy aliquot-driver; with another namespace, account or driver \
             name, add component deploy/components/admission-names (docs/admission.md)",
        );
    }
    match each().find_map(|(_, tried)| if let Tried::Unclear(reason) = tried { Some(reason) } else { None }) {
        Some(reason) => Check::skipped(NAME, reason.clone()),
        None => Check::ok(NAME, format!("{user} may write ResourceSlices of no other node and pool (dry run)")),
    }
}

/// Whether a policy about an account can be about this user.
pub(super) fn is_account(user: &str) -> bool {
    user.starts_with("system:serviceaccount:")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{api::Unanswered, check::Verdict};

    fn judged(tried: &[Tried]) -> Check {
        judge(&Ok("system:serviceaccount:aliquot:aliquot-driver".into()), &Ok(tried.to_vec()))
    }

    #[test]
    fn what_would_be_stored_is_warned_about_even_if_the_rest_is_denied() {
        for (tried, words) in [
            ([Tried::Taken, Tried::Taken], "slices of another node, and in another node's pool (dry run)"),
            ([Tried::Denied, Tried::Taken], "slices in another node's pool (dry run)"),
            ([Tried::Taken, Tried::Unclear("busy".into())], "slices of another node (dry run)"),
        ] {
            let check = judged(&tried);
            assert_eq!(check.verdict, Verdict::Warning);
            assert!(check.found.to_lowercase().contains(words), "{}", check.found);
            assert!(check.fix.unwrap().contains("admission-names"));
        }
        assert_eq!(judged(&[Tried::Denied, Tried::Denied]).verdict, Verdict::Ok);
    }

    #[test]
    fn what_another_reason_keeps_out_proves_nothing() {
        let busy = Tried::Unclear("busy".into());
        assert_eq!(judged(&[Tried::Denied, busy]), Check::skipped(NAME, "busy"));
        let away = Err(Unanswered::away("away"));
        assert_eq!(judge(&Err(Unanswered::away("away")), &Ok(vec![])), Check::skipped(NAME, "away"));
        assert_eq!(judge(&Ok("system:serviceaccount:a:b".into()), &away), Check::skipped(NAME, "away"));
    }

    #[test]
    fn nobody_else_than_an_account_is_judged() {
        let check = judge(&Ok("admin".into()), &Ok(vec![Tried::Taken, Tried::Taken]));
        assert!(check.verdict == Verdict::Skipped && check.found.contains("ds/aliquot-driver"), "{}", check.found);
    }

    #[test]
    fn a_refusal_counts_only_where_a_policy_gave_it() {
        let refused =
            |status, reason: &str| Tried::from(Err(RehearsalError::Refused { status, reason: reason.into() }));
        assert_eq!(refused(403, "ValidatingAdmissionPolicy 'x' with binding 'x' denied request: no"), Tried::Denied);
        assert!(matches!(refused(403, "cannot create resource \"resourceslices\""), Tried::Unclear(_)));
        assert_eq!(Tried::from(Ok(Rehearsal::Invalid("ValidatingAdmissionPolicy 'x' denied".into()))), Tried::Denied);
        assert!(matches!(Tried::from(Ok(Rehearsal::Invalid("spec: Invalid".into()))), Tried::Unclear(_)));
        assert_eq!(Tried::from(Ok(Rehearsal::Dropped(vec![]))), Tried::Taken);
    }
}
