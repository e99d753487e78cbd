//! GPUs that claims of this driver and pods of others hold at once: the taint came too late for them, and people must choose.
use std::collections::BTreeSet;

use aliquot_model::GpuUuid;

use super::judge::{Elsewhere, Other, Pod};
use crate::{notices::LONGEST_NOTE, offer::Holding};

/// Pods that are named at most.
const NAMED: usize = 3;

/// Somebody else's pod on a GPU that a claim holds.
pub(super) type Collision = (GpuUuid, Other, Pod);

/// All of them. Claims for administration hold nothing.
pub(super) fn collisions(holdings: &[Holding], elsewhere: &Elsewhere) -> BTreeSet<Collision> {
    let held: BTreeSet<&GpuUuid> = holdings.iter().map(|holding| &holding.gpu).collect();
    let both = elsewhere.gpus.iter().filter(|(gpu, _)| held.contains(gpu));
    both.flat_map(|(gpu, others)| others.held.iter().map(|(other, pod)| (gpu.clone(), other.clone(), pod.clone())))
        .collect()
}

/// What is worth telling of the step from one to the next, one note for each GPU and other.
pub(super) fn step(last: &BTreeSet<Collision>, now: &BTreeSet<Collision>, node: &str) -> Vec<String> {
    let new: Vec<&Collision> = now.difference(last).collect();
    let same = |a: &&Collision, b: &&Collision| (&a.0, &a.1) == (&b.0, &b.1);
    let groups = new.chunk_by(same);
    let told = groups.filter_map(|group| {
        let (gpu, other, _) = group.first()?;
        let pods: Vec<&Pod> = group.iter().map(|(.., pod)| pod).collect();
        Some(note(gpu, other, &pods, node))
    });
    told.collect()
}

/// What to do comes last, and a note that is too long is cut: so as many pods are named as there is room for.
fn note(gpu: &GpuUuid, other: &Other, pods: &[&Pod], node: &str) -> String {
    let naming = |named: usize| {
        format!(
            "GPU {gpu} is in use twice: a claim holds it, and {other} gave it to {}. Both go on and may disturb each other; \
             delete one of them. To mend it for good, {}",
            some(pods, named),
            other.remedy(node)
        )
    };
    let fits = |named: &usize| naming(*named).len() <= LONGEST_NOTE;
    naming((1..=NAMED.min(pods.len())).rev().find(fits).unwrap_or_default())
}

fn some(pods: &[&Pod], named: usize) -> String {
    let some: Vec<String> = pods.iter().take(named).map(|pod| format!("{}/{}", pod.namespace, pod.name)).collect();
    match (some.len(), pods.len() - some.len()) {
        (0, 1) => "a pod".to_owned(),
        (0, all) => format!("{all} pods"),
        (_, 0) => format!("pod {}", some.join(", ")),
        (_, more) => format!("pod {} and {more} more", some.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use aliquot_model::{DeviceName, Memory, Part, testing::gpu};

    use super::*;
    use crate::others::judge::{
        Others,
        tests::{plugin, pod},
    };

    fn elsewhere(bus: u8, pods: &[&str]) -> Elsewhere {
        let held = pods.iter().map(|name| (plugin("nvidia.com/gpu"), pod(name))).collect();
        let others = Others { by: BTreeSet::from([plugin("nvidia.com/gpu")]), held };
        Elsewhere { gpus: BTreeMap::from([(gpu(bus).uuid, others)]), ..Elsewhere::default() }
    }

    #[test]
    fn a_gpu_with_two_holders_is_told_once_for_each_new_one() {
        let device = DeviceName::of(gpu(1).pci, Part::Shared);
        let holdings = [Holding { gpu: gpu(1).uuid, device, shares: 1, memory: Memory::default() }];
        let of = |bus, pods: &[&str]| collisions(&holdings, &elsewhere(bus, pods));
        assert!(of(0, &["a"]).is_empty() && of(1, &[]).is_empty());
        let (one, two) = (of(1, &["a"]), of(1, &["a", "b", "c"]));
        let told = step(&BTreeSet::new(), &one, "node1");
        assert!(
            told.len() == 1 && told[0].contains("the device plugin of nvidia.com/gpu gave it to pod team/a."),
            "{told:?}"
        );
        let more = step(&one, &two, "node1");
        assert!(more.len() == 1 && more[0].contains("gave it to pod team/b, team/c."), "{more:?}");
        assert!(step(&two, &two, "node1").is_empty() && step(&two, &one, "node1").is_empty());
    }

    /// Of the longest names that Kubernetes has.
    #[test]
    fn however_many_pods_and_however_long_their_names_what_to_do_is_told() {
        let of = |count: usize, long: usize, resource: &str, node: &str| {
            let named = |number| Pod { namespace: "n".repeat(long.min(63)), name: format!("{number:0long$}") };
            let pods: Vec<Pod> = (0..count).map(named).collect();
            note(&gpu(1).uuid, &plugin(resource), &pods.iter().collect::<Vec<_>>(), node)
        };
        let told = of(40, 1, "nvidia.com/gpu", "node1");
        assert!(told.contains("gave it to pod n/0, n/1, n/2 and 37 more. Both"), "{told}");
        let (resource, node) = (format!("{}/{}", "r".repeat(253), "s".repeat(63)), "m".repeat(253));
        for count in [1, 2, 3, 4, 1000] {
            for long in [1, 63, 253] {
                for (resource, node) in [("nvidia.com/gpu", "node1"), (&resource, &node)] {
                    let told = of(count, long, resource, node);
                    assert!(
                        told.len() <= LONGEST_NOTE && told.ends_with("of its container)"),
                        "{}: {told}",
                        told.len()
                    );
                }
            }
        }
        assert!(of(1, 253, &resource, &node).contains("gave it to a pod."), "there is no room for its name");
        let some = of(1000, 253, "nvidia.com/gpu", "node1");
        assert!(some.contains(" and 998 more.") || some.contains(" and 999 more."), "not all three fit: {some}");
    }
}
