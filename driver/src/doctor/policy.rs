//! Check `policy`: the driver would take the file.
use std::path::Path;

use aliquot_params::policy::Policy;

use super::check::{Check, some};
use crate::policy::Refusal;

const NAME: &str = "policy";

/// What a policy file says, with what is allowed in it but can't be meant.
pub(super) type Judged = Result<(Policy, Vec<String>), Refusal>;

/// `has_gpus`: whether it was judged against the node's GPUs.
pub(super) fn judge(file: Option<&Path>, judged: Option<&Judged>, has_gpus: bool) -> Check {
    let (Some(file), Some(judged)) = (file, judged) else {
        return Check::skipped(NAME, "no --policy: every GPU is offered whole and in shares");
    };
    let shown = file.display();
    match judged {
        Err(refusal) => Check::failed(
            NAME,
            format!("{shown}: {}", crate::report(refusal)),
            format!("correct the file; aliquot-driver policy check {shown} shows what it offers"),
        ),
        Ok((_, warnings)) if !warnings.is_empty() => Check::warning(
            NAME,
            format!("{shown}: {}", some(warnings)),
            format!("see with aliquot-driver policy check {shown} whether this is meant"),
        ),
        Ok((policy, _)) => {
            let unseen = if has_gpus { "" } else { "; the GPUs that it is for aren't known" };
            let rules = policy.rules();
            let s = if rules == 1 { "" } else { "s" };
            Check::ok(NAME, format!("{shown}: {rules} rule{s}{unseen}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::check::Verdict;

    #[test]
    fn each_judgement_of_the_driver_has_its_verdict() {
        let file = Some(Path::new("/etc/policy.yaml"));
        assert_eq!(judge(None, None, true).verdict, Verdict::Skipped);
        let check = judge(file, Some(&Err(Refusal::Node(vec!["rules[0] asks too much".into()]))), true);
        assert!(check.verdict == Verdict::Failed && check.found.contains("rules[0] asks too much"));
        let doubtful = Ok((Policy::default(), vec!["rules[1] never matches".into()]));
        assert_eq!(judge(file, Some(&doubtful), true).verdict, Verdict::Warning);
        let good = Ok((Policy::default(), vec![]));
        assert_eq!(judge(file, Some(&good), false).verdict, Verdict::Ok);
    }
}
