//! Checks `nvml` and `gpus`: the library answers, and so does every GPU.
use aliquot_model::{Binding, Inventory};
use aliquot_nvml::Error;

use super::check::{Check, some};
use crate::discovery::{Found, Trouble};

const NVML: &str = "nvml";
const GPUS: &str = "gpus";

pub(super) fn nvml(reading: &Result<Found, Trouble>) -> Check {
    match reading {
        Ok(found) => Check::ok(NVML, format!("the library answers; driver {}", found.installation.version)),
        Err(Trouble::NoLibrary { root, searched }) => Check::failed(
            NVML,
            format!("no libnvidia-ml.so.1 below {}; searched {searched}", root.display()),
            "install the NVIDIA driver on this node, or say with --driver-root where it is: /run/nvidia/driver for NVIDIA's \
             driver container",
        ),
        Err(Trouble::Nvml(error)) => {
            let found = match error {
                Error::Start { path, source } => format!("NVML can't be started from {}: {source}", path.display()),
                Error::List { source } => format!("NVML failed to list the GPUs: {source}"),
                other => crate::report(other),
            };
            Check::failed(NVML, found, error.advice())
        }
    }
}

pub(super) fn gpus(inventory: Option<&Inventory>) -> Check {
    let Some(inventory) = inventory else { return Check::skipped(GPUS, "NVML lists none before it answers") };
    let (well, broken) = (inventory.gpus(), inventory.broken());
    if !broken.is_empty() {
        let broken: Vec<String> = broken.iter().map(|gpu| format!("GPU {}: {}", gpu.index, gpu.reason)).collect();
        return Check::failed(
            GPUS,
            format!("{} of {} don't answer: {}", broken.len(), well.len() + broken.len(), some(&broken)),
            "see the kernel's log for NVRM and Xid messages (dmesg); a GPU that fell off the bus needs a reset or a reboot. \
             The others are offered meanwhile",
        );
    }
    let bound: Vec<String> = inventory
        .vfio()
        .iter()
        .filter(|vfio| vfio.binding == Binding::Bound)
        .flat_map(|vfio| vfio.gpus().map(|gpu| format!("{} for virtual machines at {}", gpu.product_name, gpu.pci)))
        .collect();
    if well.is_empty() && !bound.is_empty() {
        return Check::ok(GPUS, bound.join(", "));
    }
    if well.is_empty() {
        return Check::failed(
            GPUS,
            "NVML lists no GPU",
            "look for one with lspci -nnk -d 10de: and for the kernel driver that it is bound to, which must be nvidia",
        );
    }
    let mut kinds: Vec<(&str, usize)> = Vec::new();
    for gpu in well {
        match kinds.iter_mut().find(|(name, _)| *name == gpu.product_name) {
            Some((_, count)) => *count += 1,
            None => kinds.push((&gpu.product_name, 1)),
        }
    }
    let kinds: Vec<String> = kinds.into_iter().map(|(name, count)| format!("{count} × {name}")).collect();
    Check::ok(GPUS, kinds.into_iter().chain(bound).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aliquot_model::BrokenGpu;

    use super::*;
    use crate::{doctor::check::Verdict, offer::tests::gpu};

    #[test]
    fn a_missing_library_points_to_the_driver_root() {
        let trouble = Trouble::NoLibrary { root: "/run/nvidia/driver".into(), searched: "/a, /b".into() };
        let check = nvml(&Err(trouble));
        assert_eq!(check.verdict, Verdict::Failed);
        assert!(check.found.contains("/run/nvidia/driver") && check.fix.unwrap().contains("--driver-root"));
    }

    #[test]
    fn a_hung_library_points_to_the_kernels_log() {
        let overdue = Error::Overdue { deadline: Duration::from_secs(20), gpu: Some(3), so_far: None };
        let check = nvml(&Err(Trouble::Nvml(overdue)));
        assert!(check.found.contains("20s for GPU 3") && check.fix.unwrap().contains("Xid"));
    }

    #[test]
    fn gpus_are_counted_by_product_and_broken_ones_named() {
        let check = gpus(Some(&Inventory::new(vec![gpu(0), gpu(1)], vec![])));
        assert_eq!((check.verdict, check.found.as_str()), (Verdict::Ok, "2 × NVIDIA H100 80GB HBM3"));
        let broken = BrokenGpu { index: 1, pci: None, reason: "fell off the bus".into() };
        let check = gpus(Some(&Inventory::new(vec![gpu(0)], vec![broken])));
        assert_eq!(check.verdict, Verdict::Failed);
        assert_eq!(check.found, "1 of 2 don't answer: GPU 1: fell off the bus");
        assert_eq!(gpus(Some(&Inventory::new(vec![], vec![]))).verdict, Verdict::Failed);
        assert_eq!(gpus(None).verdict, Verdict::Skipped);
    }
}
