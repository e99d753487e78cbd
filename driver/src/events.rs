//! What of a node's GPUs and policy is worth an event on the Node: what an administrator has to mend.
use aliquot_model::{Binding, Inventory, Vfio};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{discovery::View, notices::Notices, policy::InForce};

/// What is worth telling of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Telling {
    is_warning: bool,
    reason: &'static str,
    note: String,
}

/// Tells of each change of the view and of the policy, until `stop`.
pub(crate) async fn tell(
    notices: Notices,
    mut view: watch::Receiver<View>,
    mut policy: watch::Receiver<InForce>,
    stop: CancellationToken,
) {
    let (mut last, mut last_policy) = (View::Searching, InForce::default());
    loop {
        let (now, now_policy) = (view.borrow_and_update().clone(), policy.borrow_and_update().clone());
        let all = of_view(&last, &now).into_iter().chain(of_policy(&last_policy, &now_policy));
        for Telling { is_warning, reason, note } in all {
            if is_warning {
                notices.warn_node(reason, note);
            } else {
                notices.tell_node(reason, note);
            }
        }
        (last, last_policy) = (now, now_policy);
        tokio::select! {
            () = stop.cancelled() => return,
            changed = view.changed() => if changed.is_err() { return },
            Ok(()) = policy.changed() => {}
        }
    }
}

/// What the step from one policy to the next is worth telling. The first good one is no news.
fn of_policy(last: &InForce, now: &InForce) -> Option<Telling> {
    match (last.trouble(), now.trouble()) {
        (before, Some(trouble)) if before != Some(trouble) => {
            let note = format!("the policy is refused: {trouble}");
            Some(Telling { is_warning: true, reason: "PolicyRefused", note })
        }
        (before, None) if before.is_some() || (last.policy().is_some() && last.policy() != now.policy()) => {
            let note = "a new policy is in force".to_owned();
            Some(Telling { is_warning: false, reason: "PolicyInForce", note })
        }
        _ => None,
    }
}

/// What the step from one view to the next is worth telling.
fn of_view(last: &View, now: &View) -> Vec<Telling> {
    let warning = |reason, note: String| Telling { is_warning: true, reason, note };
    match now {
        View::Searching => Vec::new(),
        View::Unavailable(reason) => vec![warning("GPUsUnavailable", format!("no GPUs can be offered: {reason}"))],
        View::Ready(found) => {
            let known = |gpu| matches!(last, View::Ready(before) if before.inventory.broken().contains(gpu));
            let mut notices: Vec<Telling> = found
                .inventory
                .broken()
                .iter()
                .filter(|gpu| !known(gpu))
                .map(|gpu| {
                    let place = gpu.pci.map_or_else(String::new, |pci| format!(" at {pci}"));
                    warning("GPUUnhealthy", format!("GPU {}{place} is not offered: {}", gpu.index, gpu.reason))
                })
                .collect();
            if let View::Ready(before) = last {
                let gone = found.inventory.gone_since(&before.inventory);
                notices.extend(gone.map(|gpu| {
                    warning(
                        "GPUGone",
                        format!(
                            "GPU {} at {} ({}) is gone and is no longer offered",
                            gpu.uuid, gpu.pci, gpu.product_name
                        ),
                    )
                }));
            }
            notices.extend(lost(last.inventory(), &found.inventory));
            let has_none = found.inventory.gpus().is_empty() && found.inventory.vfio().is_empty();
            if has_none && notices.is_empty() {
                notices.push(warning(
                    "NoGPUs",
                    "NVML lists no GPU: is one installed, and is it bound to the nvidia module?".to_owned(),
                ));
            }
            if matches!(last, View::Unavailable(_)) && !found.inventory.gpus().is_empty() {
                let note = format!("{} GPUs are offered again", found.inventory.gpus().len());
                notices.push(Telling { is_warning: false, reason: "GPUsAvailable", note });
            }
            notices
        }
    }
}

/// What was there for virtual machines and can't be had any more.
fn lost(last: Option<&Inventory>, now: &Inventory) -> Vec<Telling> {
    let is_bound = |vfio: &&Vfio| vfio.binding == Binding::Bound;
    let before = last.map(Inventory::vfio).unwrap_or_default().iter().filter(is_bound);
    let telling = |vfio: &Vfio| {
        let why = match now.passthrough(&vfio.name()) {
            // Its claim has ended, and NVIDIA's driver gets it back.
            Some(vfio) if vfio.binding == Binding::Switchable && now.of_group(vfio).is_some() => return None,
            Some(vfio) => vfio.binding.trouble()?,
            None => "it is gone",
        };
        let (gpu, device) = (&vfio.gpu, vfio.name());
        let note = format!("device {device} ({}) is no longer offered to virtual machines: {why}", gpu.product_name);
        Some(Telling { is_warning: true, reason: "VfioGPULost", note })
    };
    before.filter_map(telling).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use aliquot_model::{BrokenGpu, Inventory};
    use aliquot_params::policy::Policy;

    use super::*;
    use crate::discovery::Found;

    fn ready(broken: Vec<BrokenGpu>) -> View {
        View::Ready(Arc::new(Found { inventory: Inventory::new(vec![], broken), ..Found::default() }))
    }

    fn lost() -> BrokenGpu {
        BrokenGpu { index: 2, pci: Some("0000:41:00.0".parse().unwrap()), reason: "it is lost".into() }
    }

    fn policy(rules: &str) -> Policy {
        Policy::parse(format!("apiVersion: gpu.aliquot.dev/v1alpha1\nkind: Policy\nrules: {rules}\n").as_bytes())
            .unwrap()
    }

    #[test]
    fn a_policy_is_told_when_it_takes_the_place_of_another_or_of_a_bad_file() {
        let (first, other) = (policy("[]"), policy("[{offer: [whole]}]"));
        let none = InForce::default();
        let good = InForce::of(Some(first.clone()), None);
        let bad = InForce::of(Some(first.clone()), Some("line 3: wrong"));
        let never_good = InForce::of(None, Some("line 3: wrong"));
        let reason = |last: &InForce, now: &InForce| of_policy(last, now).map(|told| (told.reason, told.is_warning));
        let (in_force, refused) = (Some(("PolicyInForce", false)), Some(("PolicyRefused", true)));
        assert_eq!(reason(&none, &good), None, "the first good one is no news");
        assert_eq!(reason(&good, &good), None);
        assert_eq!(reason(&good, &InForce::of(Some(other), None)), in_force);
        assert_eq!(reason(&good, &bad), refused);
        assert_eq!(reason(&bad, &bad), None);
        assert_eq!(reason(&bad, &InForce::of(Some(first), Some("line 4: wrong"))), refused);
        assert_eq!(reason(&bad, &good), in_force, "the same as before is in force again");
        assert_eq!(reason(&none, &never_good), refused);
        assert_eq!(
            reason(&never_good, &good),
            in_force,
            "whoever was told of the first bad one hears that it is mended"
        );
        assert!(of_policy(&good, &bad).unwrap().note.contains("line 3: wrong"));
    }

    #[test]
    fn a_broken_gpu_is_told_once_with_its_place() {
        let first = of_view(&View::Searching, &ready(vec![lost()]));
        assert_eq!(first[0].note, "GPU 2 at 0000:41:00.0 is not offered: it is lost");
        assert_eq!(
            of_view(&ready(vec![lost()]), &ready(vec![lost()])).iter().filter(|n| n.reason == "GPUUnhealthy").count(),
            0
        );
    }

    #[test]
    fn a_node_without_gpus_says_why() {
        let told = of_view(&View::Searching, &View::Unavailable("no driver".into()));
        assert_eq!((told[0].reason, told[0].note.as_str()), ("GPUsUnavailable", "no GPUs can be offered: no driver"));
        assert_eq!(of_view(&View::Searching, &ready(vec![]))[0].reason, "NoGPUs");
    }
}
