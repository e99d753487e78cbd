//! GPUs that claims of this driver and pods of others hold at once: the taint came too late for them, and people must choose.
use std::collections::BTreeSet;

use aliquot_model::GpuUuid;

use super::judge::{Elsewhere, Other, Pod};
use crate::offer::Holding;

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
    groups.filter_map(|group| {
        let (gpu, other, _) = group.first()?;
        let pods: Vec<String> = group.iter().map(|(.., pod)| format!("{}/{}", pod.namespace, pod.name)).collect();
        Some(format!(
            "GPU {gpu} is in use twice: a claim holds it, and {other} gave it to pod {}. Both go on and may disturb each other; \
             delete one of them. To mend it for good, {}",
            pods.join(", "),
            other.remedy(node)
        ))
    }).collect()
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
}
