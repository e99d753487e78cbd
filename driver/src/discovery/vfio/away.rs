//! GPUs that claims have taken from NVIDIA's driver, as it told of them, among those that it has. Pure.
//!
//! What is offered doesn't change when a virtual machine gets a GPU, nor when it leaves: the GPU is still the node's, and
//! the counters on which its devices draw keep it from everybody else.
use std::collections::BTreeSet;

use aliquot_model::{Away, Binding, BrokenGpu, Gpu, Inventory, PciAddress, Vfio};

/// What was read with what is away, and which GPUs NVIDIA's driver doesn't list for it.
pub(crate) fn with_away(read: &Inventory, all: &[Away]) -> (Inventory, BTreeSet<PciAddress>) {
    let lists = |gpu: &&Gpu| read.gpus().iter().any(|listed| listed.pci == gpu.pci);
    let missing: Vec<&Gpu> = all.iter().flat_map(|away| &away.taken.gpus).filter(|gpu| !lists(gpu)).collect();
    let is_away = |broken: &&BrokenGpu| all.iter().any(|away| broken.pci.is_some_and(|pci| has(away, pci)));
    let gpus = read.gpus().iter().chain(missing.iter().copied()).cloned().collect();
    let broken = read.broken().iter().filter(|broken| !is_away(broken)).cloned().collect();
    let vfio = read.vfio().iter().map(|vfio| as_taken(vfio, all)).collect();
    (Inventory::new(gpus, broken).with_vfio(vfio), missing.iter().map(|gpu| gpu.pci).collect())
}

fn has(away: &Away, pci: PciAddress) -> bool {
    away.taken.gpus.iter().any(|gpu| gpu.pci == pci)
}

/// A group as its claim knows it: on the way to its vfio driver or back, what each of its functions is with says nothing.
fn as_taken(vfio: &Vfio, all: &[Away]) -> Vfio {
    let Some(away) = all.iter().find(|away| away.group == vfio.group) else { return vfio.clone() };
    let binding = match &vfio.binding {
        _ if !away.is_settled => Binding::Switchable,
        Binding::Switchable => Binding::Unusable(format!(
            "somebody took it from {}, with which a claim's virtual machine has it",
            away.taken.by
        )),
        bound => bound.clone(),
    };
    Vfio { binding, functions: away.taken.functions.clone(), ..vfio.clone() }
}

#[cfg(test)]
mod tests {
    use aliquot_model::{
        Taken,
        testing::{gpu, switchable, vfio},
    };

    use super::*;

    fn away(is_settled: bool) -> Away {
        let Vfio { group, functions, .. } = switchable(0x41);
        Away { group, taken: Taken { by: "vfio-pci".into(), functions, gpus: vec![gpu(0x41)] }, is_settled }
    }

    fn read(binding: Binding, listed: Vec<Gpu>) -> Inventory {
        Inventory::new(listed, vec![]).with_vfio(vec![Vfio { binding, ..vfio(0x41) }])
    }

    fn binding(is_settled: bool, binding: Binding) -> Binding {
        with_away(&read(binding, vec![]), &[away(is_settled)]).0.vfio()[0].binding.clone()
    }

    #[test]
    fn a_gpu_that_is_away_is_what_it_was() {
        let before = Inventory::new(vec![gpu(0x41), gpu(0x42)], vec![]).with_vfio(vec![switchable(0x41)]);
        let (now, missing) = with_away(&read(Binding::Bound, vec![gpu(0x42)]), &[away(true)]);
        assert_eq!((now.gpus(), &now.vfio()[0].functions), (before.gpus(), &before.vfio()[0].functions));
        assert_eq!(missing, BTreeSet::from(["0000:41:00.0".parse().unwrap()]));
        let broken = BrokenGpu { index: 0, pci: Some(gpu(0x41).pci), reason: "it has no driver".into() };
        let (now, _) = with_away(&Inventory::new(vec![], vec![broken]), &[away(false)]);
        assert_eq!((now.gpus(), now.broken()), (&[gpu(0x41)][..], &[][..]));
    }

    #[test]
    fn one_that_is_back_is_as_nvidias_driver_has_it_now() {
        let back = Gpu { minor: 7, ..gpu(0x41) };
        let (now, missing) = with_away(&read(Binding::Switchable, vec![back.clone()]), &[away(false)]);
        assert_eq!((now.gpus(), missing.len()), (&[back][..], 0));
    }

    #[test]
    fn only_what_is_with_its_driver_for_good_can_be_lost() {
        let odd = || Binding::Unusable("audio".into());
        for raw in [Binding::Bound, Binding::Switchable, odd()] {
            assert_eq!(binding(false, raw), Binding::Switchable);
        }
        assert_eq!(binding(true, Binding::Bound), Binding::Bound);
        assert_eq!(binding(true, odd()), odd());
        assert!(matches!(binding(true, Binding::Switchable), Binding::Unusable(why) if why.contains("vfio-pci")));
    }

    #[test]
    fn without_claims_nothing_changes() {
        let plain = read(Binding::Bound, vec![gpu(0x42)]);
        assert_eq!(with_away(&plain, &[]), (plain, BTreeSet::new()));
    }
}
