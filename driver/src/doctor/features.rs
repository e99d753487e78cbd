//! Check `dra-features`: the API server stores all fields of what this node would publish.
use std::collections::BTreeSet;

use dra_plugin::slices::Rehearsal;

use super::check::{Check, some};

const NAME: &str = "dra-features";

/// What the API server would do with what this node offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rehearsed {
    /// Nothing could be asked, for this reason.
    Not(String),
    /// It answers that this must not be asked, for this reason.
    Refused(String),
    /// GPUs whole and as shares at once.
    Counters(Rehearsal),
    /// That isn't stored, and this becomes of GPUs that are one or the other.
    Fixed {
        /// Of both at once.
        counters: Rehearsal,
        /// Of the fallback.
        fixed: Rehearsal,
    },
}

pub(super) fn judge(rehearsed: &Rehearsed) -> Check {
    match rehearsed {
        Rehearsed::Not(reason) => Check::skipped(NAME, reason.clone()),
        Rehearsed::Refused(reason) => Check::failed(
            NAME,
            reason.clone(),
            "let this user create ResourceSlices (see the check permissions), and admission webhooks for them take dry runs \
             (sideEffects: None)",
        ),
        Rehearsed::Counters(Rehearsal::Complete) => {
            Check::ok(NAME, "the API server stores all that this node would publish (dry run)")
        }
        Rehearsed::Counters(other) => Check::failed(NAME, what(other), fix(other)),
        Rehearsed::Fixed { counters, fixed: Rehearsal::Complete } => Check::warning(
            NAME,
            format!("{}: each GPU is offered as the policy's fallback says, whole by default", what(counters)),
            fix(counters),
        ),
        Rehearsed::Fixed { fixed, .. } => Check::failed(NAME, what(fixed), fix(fixed)),
    }
}

fn what(rehearsal: &Rehearsal) -> String {
    match rehearsal {
        Rehearsal::Complete => "the API server stores everything".to_owned(),
        Rehearsal::Dropped(fields) => {
            let fields: Vec<String> = fields.iter().map(ToString::to_string).collect();
            format!("the API server would drop {}", some(&fields))
        }
        Rehearsal::Invalid(reason) => format!("the API server would refuse a slice: {reason}"),
    }
}

fn fix(rehearsal: &Rehearsal) -> String {
    let Rehearsal::Dropped(fields) = rehearsal else {
        return "run Kubernetes 1.36 or newer, where slices have these fields in this form".to_owned();
    };
    let gates: BTreeSet<String> =
        fields.iter().filter_map(|field| field.feature.gate()).map(|gate| format!("{gate}=true")).collect();
    if gates.is_empty() {
        return "look for an admission webhook that changes ResourceSlices, or run a newer Kubernetes".to_owned();
    }
    let gates: Vec<String> = gates.into_iter().collect();
    format!(
        "run Kubernetes 1.36 or newer, or set --feature-gates={} on API server, controller manager, scheduler and kubelets",
        gates.join(",")
    )
}

#[cfg(test)]
mod tests {
    use dra_plugin::slices::{DroppedField, Feature};

    use super::*;
    use crate::doctor::check::Verdict;

    fn dropped(features: &[Feature]) -> Rehearsal {
        let field =
            |feature: &Feature| DroppedField { field: "devices[].x".into(), of: vec!["gpu".into()], feature: *feature };
        Rehearsal::Dropped(features.iter().map(field).collect())
    }

    #[test]
    fn gates_that_are_off_are_named_once_each() {
        let features = [Feature::PartitionableDevices, Feature::ConsumableCapacity, Feature::PartitionableDevices];
        let check = judge(&Rehearsed::Fixed { counters: dropped(&features), fixed: Rehearsal::Complete });
        assert_eq!(check.verdict, Verdict::Warning);
        assert!(
            check.found.contains("devices[].x of gpu (feature gate DRAPartitionableDevices is off)"),
            "{}",
            check.found
        );
        let fix = check.fix.unwrap();
        assert!(fix.contains("--feature-gates=DRAConsumableCapacity=true,DRAPartitionableDevices=true on"), "{fix}");
    }

    #[test]
    fn what_cannot_be_published_in_any_form_fails() {
        let refused = Rehearsal::Invalid("spec.devices: Invalid".into());
        let check = judge(&Rehearsed::Fixed { counters: dropped(&[Feature::Other]), fixed: refused.clone() });
        assert!(check.verdict == Verdict::Failed && check.found.contains("spec.devices: Invalid"));
        assert_eq!(judge(&Rehearsed::Counters(refused)).verdict, Verdict::Failed);
        let check = judge(&Rehearsed::Counters(dropped(&[Feature::Other])));
        assert!(check.fix.unwrap().contains("webhook"));
    }

    #[test]
    fn what_is_not_asked_is_skipped_and_what_must_not_be_asked_fails() {
        assert_eq!(judge(&Rehearsed::Counters(Rehearsal::Complete)).verdict, Verdict::Ok);
        let check = judge(&Rehearsed::Refused("HTTP status 403".into()));
        assert!(check.verdict == Verdict::Failed && check.fix.unwrap().contains("dry runs"));
        assert_eq!(judge(&Rehearsed::Not("no GPUs".into())), Check::skipped(NAME, "no GPUs"));
    }
}
