//! What of a change of others is worth an event on the Node. Pure.
use std::collections::{BTreeMap, BTreeSet};

use aliquot_model::{Gpu, Inventory};
use aliquot_params::policy::Policy;

use super::judge::{Elsewhere, Other};
use crate::args::OtherPlugins;

/// GPUs by who else hands them out, with those whose parts can't be told as an empty set.
pub(super) type Contested = BTreeMap<Other, BTreeSet<String>>;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Telling {
    pub(super) is_warning: bool,
    pub(super) note: String,
}

/// GPUs that this driver offers and others too. What the policy leaves to others is no matter.
pub(super) fn contested(inventory: &Inventory, policy: &Policy, elsewhere: &Elsewhere) -> Contested {
    let is_offered = |gpu: &Gpu| policy.for_gpu(gpu).is_ok_and(|offer| offer.whole || offer.shares.is_some());
    let mut contested = Contested::new();
    let offered: Vec<&Gpu> = inventory.gpus().iter().filter(|gpu| is_offered(gpu)).collect();
    for gpu in &offered {
        for other in elsewhere.gpus.get(&gpu.uuid).iter().flat_map(|others| &others.by) {
            contested.entry(other.clone()).or_default().insert(gpu.pci.to_string());
        }
    }
    for other in elsewhere.unplaced.iter().filter(|_| !offered.is_empty()) {
        contested.entry(other.clone()).or_default();
    }
    contested
}

/// What the step from one to the next is worth telling, on the node of this name and with this taint.
pub(super) fn step(last: &Contested, now: &Contested, taint: &str, on: &str, mode: OtherPlugins) -> Vec<Telling> {
    let begun = now.iter().filter_map(|(other, gpus)| begun(other, last.get(other), gpus, taint, on, mode));
    let ended = last.iter().filter_map(|(other, gpus)| ended(other, gpus, now.get(other)));
    let begun = begun.map(|note| Telling { is_warning: true, note });
    begun.chain(ended.map(|note| Telling { is_warning: false, note })).collect()
}

fn begun(
    other: &Other,
    before: Option<&BTreeSet<String>>,
    gpus: &BTreeSet<String>,
    taint: &str,
    on: &str,
    mode: OtherPlugins,
) -> Option<String> {
    let new = beyond(gpus, before);
    let what = if !new.is_empty() {
        let outcome = match mode {
            OtherPlugins::Taint => format!(
                "new claims don't get them: they are tainted with {taint}, or not offered where the API server stores no taints"
            ),
            OtherPlugins::Warn | OtherPlugins::Ignore => {
                "as --other-plugins says warn, they are offered all the same".to_owned()
            }
        };
        format!("GPUs that this driver offers too, so that two pods may get one: {}. For now {outcome}", new.join(", "))
    } else if gpus.is_empty() && before.is_none() {
        "MIG devices without saying of which GPUs, so that none can be tainted, and two pods may get one".to_owned()
    } else {
        return None;
    };
    let remedy = other.remedy(on);
    Some(format!(
        "{other} hands out {what}. To mend it, {remedy}; or leave GPUs to it by a rule with offer: [] in the policy file"
    ))
}

fn ended(other: &Other, gpus: &BTreeSet<String>, still: Option<&BTreeSet<String>>) -> Option<String> {
    let gone = beyond(gpus, still);
    if !gone.is_empty() {
        return Some(format!("GPUs that {other} handed out too are this driver's alone again: {}", gone.join(", ")));
    }
    still.is_none().then(|| format!("{other} no longer hands out MIG devices here"))
}

/// Those that are not among others.
fn beyond<'a>(gpus: &'a BTreeSet<String>, others: Option<&BTreeSet<String>>) -> Vec<&'a str> {
    let is_new = |gpu: &&String| others.is_none_or(|others| !others.contains(*gpu));
    gpus.iter().filter(is_new).map(String::as_str).collect()
}

#[cfg(test)]
mod tests {
    use aliquot_model::testing::gpu;

    use super::*;
    use crate::others::judge::{Others, tests::plugin};

    fn now(pairs: &[(&str, &[&str])]) -> Contested {
        let set = |gpus: &[&str]| gpus.iter().map(|gpu| (*gpu).to_owned()).collect();
        pairs.iter().map(|(name, gpus)| (plugin(name), set(gpus))).collect()
    }

    fn notes(last: &Contested, now: &Contested) -> Vec<(bool, String)> {
        let all = step(last, now, "d/t", "n1", OtherPlugins::Taint);
        all.into_iter().map(|telling| (telling.is_warning, telling.note)).collect()
    }

    #[test]
    fn each_is_told_once_with_its_gpus_and_what_to_do_and_when_it_has_ended() {
        let (none, one) = (now(&[]), now(&[("nvidia.com/gpu", &["a", "b"])]));
        let told = notes(&none, &one);
        assert_eq!((told.len(), told[0].0), (1, true));
        for words in ["the device plugin of nvidia.com/gpu", ": a, b.", "d/t", "kubectl label node n1", "offer: []"] {
            assert!(told[0].1.contains(words), "{words}: {}", told[0].1);
        }
        assert!(notes(&one, &one).is_empty());
        let more = notes(&one, &now(&[("nvidia.com/gpu", &["a", "b", "c"])]));
        assert!(more.len() == 1 && more[0].1.contains(": c."), "{more:?}");
        let less = notes(&one, &now(&[("nvidia.com/gpu", &["a"])]));
        assert!(less.len() == 1 && !less[0].0 && less[0].1.ends_with("again: b"), "{less:?}");
        let end = notes(&one, &none);
        assert!(end.len() == 1 && end[0].1.ends_with("again: a, b"), "{end:?}");
    }

    #[test]
    fn parts_of_some_gpu_are_told_without_a_taint() {
        let (none, some) = (now(&[]), now(&[("nvidia.com/mig-1g.10gb", &[])]));
        assert!(notes(&none, &some)[0].1.contains("none can be tainted"));
        assert!(notes(&some, &some).is_empty());
        assert!(notes(&some, &none)[0].1.contains("no longer hands out MIG devices"));
    }

    #[test]
    fn whoever_only_wants_to_be_warned_hears_that_nothing_is_kept_back() {
        let told = step(&now(&[]), &now(&[("x/y", &["a"])]), "d/t", "n", OtherPlugins::Warn);
        assert!(told[0].note.contains("offered all the same") && !told[0].note.contains("d/t"));
    }

    #[test]
    fn a_note_about_sixteen_gpus_is_told_in_full() {
        let gpus: Vec<String> = (0..16).map(|bus| gpu(bus).pci.to_string()).collect();
        let gpus: Vec<&str> = gpus.iter().map(String::as_str).collect();
        let longest = notes(&now(&[]), &now(&[("nvidia.com/mig-1g.10gb.shared", &gpus)]));
        assert!(longest[0].1.len() <= crate::notices::LONGEST_NOTE, "{}", longest[0].1.len());
    }

    #[test]
    fn what_the_policy_leaves_to_others_is_no_matter() {
        let policy = |rules: &str| {
            let text = format!("apiVersion: gpu.aliquot.dev/v1alpha1\nkind: Policy\nrules:\n{rules}");
            Policy::parse(text.as_bytes()).unwrap()
        };
        let others = Others { by: BTreeSet::from([plugin("a")]), ..Others::default() };
        let gpus = [0, 1].map(|bus| (gpu(bus).uuid, others.clone())).into();
        let elsewhere = Elsewhere { gpus, unplaced: BTreeSet::from([plugin("mig")]) };
        let inventory = Inventory::new(vec![gpu(0), gpu(1)], vec![]);
        let some = policy("- match: {pciAddress: '0000:00:00.0'}\n  offer: []\n");
        let mut expected = now(&[("a", &["0000:01:00.0"]), ("mig", &[])]);
        assert_eq!(contested(&inventory, &some, &elsewhere), expected);
        assert!(contested(&inventory, &policy("- offer: []\n"), &elsewhere).is_empty());
        expected.get_mut(&plugin("a")).unwrap().insert("0000:00:00.0".into());
        assert_eq!(contested(&inventory, &Policy::default(), &elsewhere), expected);
    }
}
