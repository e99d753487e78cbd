//! Whether an IOMMU group can be given to a virtual machine. Pure.
//!
//! All of a group reaches the same memory, so that a virtual machine gets all of it or nothing. The kernel refuses one of
//! which another driver has a device, when it is opened (drivers/iommu, `iommu_group_claim_dma_owner`); here it is known
//! before it is offered.
use aliquot_model::{Binding, Origin, PciAddress};

use super::function::Function;

/// The driver that a GPU can be taken from.
pub(super) const NVIDIA: &str = "nvidia";
/// Drivers that use no device for themselves (`driver_managed_dma` in the kernel).
const HARMLESS: [&str; 3] = ["pcieport", "shpchp", "pci-stub"];
/// Drivers of what comes with a graphics card, which nobody misses while a virtual machine has the card.
const ALONG: [&str; 5] = ["snd_hda_intel", "xhci_hcd", "xhci-pci-renesas", "nvidia-gpu", "ucsi_ccg"];

/// Judges a group by all its members; none without a GPU in it.
pub(super) fn judge(members: &[Function]) -> Option<Binding> {
    let gpus: Vec<&Function> = members.iter().filter(|member| member.is_gpu()).collect();
    if gpus.is_empty() {
        return None;
    }
    if let Some(foreign) = members.iter().find(|member| !may_be_beside(member, &gpus)) {
        return Some(Binding::Unusable(format!(
            "{} {} {} is in its IOMMU group; with ACS on (see the firmware's settings) it would have one of its own",
            what(foreign),
            foreign.pci,
            with(foreign)
        )));
    }
    if let Some(gpu) = gpus.iter().find(|gpu| gpu.parts > 0) {
        let reason = format!("{} is divided into {} virtual functions", gpu.pci, gpu.parts);
        return Some(Binding::Unusable(reason));
    }
    if let Some(gpu) = gpus.iter().find(|gpu| !gpu.is_vfio() && gpu.driver.as_deref().is_some_and(|d| d != NVIDIA)) {
        return Some(Binding::Unusable(format!("{} is {}", gpu.pci, with(gpu))));
    }
    if gpus.iter().any(|gpu| !gpu.is_vfio()) {
        return Some(Binding::Switchable);
    }
    let used = members.iter().find(|member| !is_idle(member));
    Some(used.map_or(Binding::Bound, |member| {
        Binding::Unusable(format!(
            "{} {} is still {}, though the GPU is with a vfio driver: bind it to vfio-pci as well, or to none",
            what(member),
            member.pci,
            with(member)
        ))
    }))
}

/// What of a group changes its driver with the GPUs, these first.
pub(super) fn changing(members: &[Function]) -> Vec<Origin> {
    let origin = |member: &Function| Origin { pci: member.pci, driver: member.driver.clone() };
    let gpus = members.iter().filter(|member| member.is_gpu() && !member.is_vfio());
    let used = members.iter().filter(|member| !member.is_gpu() && !is_idle(member));
    gpus.chain(used).map(origin).collect()
}

/// Whether nobody on the host uses it.
fn is_idle(member: &Function) -> bool {
    member.is_vfio() || member.driver.as_deref().is_none_or(|driver| HARMLESS.contains(&driver))
}

fn may_be_beside(member: &Function, gpus: &[&Function]) -> bool {
    let goes_along = member.class.goes_along() && gpus.iter().any(|gpu| is_same_card(gpu.pci, member.pci));
    member.is_gpu()
        || is_idle(member)
        || goes_along && member.driver.as_deref().is_some_and(|driver| ALONG.contains(&driver))
}

/// Functions of one slot are on one card.
pub(super) fn is_same_card(a: PciAddress, b: PciAddress) -> bool {
    (a.domain(), a.bus(), a.device()) == (b.domain(), b.bus(), b.device())
}

fn what(member: &Function) -> &'static str {
    if member.class.is_switch() && member.vendor == aliquot_model::VendorId::NVIDIA {
        "NVSwitch"
    } else if member.class.is_pci_bridge() {
        "bridge"
    } else {
        "device"
    }
}

fn with(member: &Function) -> String {
    member.driver.as_deref().map_or_else(|| "with no driver".to_owned(), |driver| format!("with driver {driver}"))
}

#[cfg(test)]
mod tests {
    use aliquot_model::{DeviceId, Memory, VendorId};
    use proptest::prelude::*;

    use super::{super::function::Class, *};

    fn function(pci: &str, class: u16, driver: &str) -> Function {
        Function {
            pci: pci.parse().unwrap(),
            vendor: VendorId::NVIDIA,
            device: DeviceId(0x2330),
            class: Class(class),
            driver: Some(driver.to_owned()).filter(|driver| !driver.is_empty()),
            group: None,
            is_virtual: false,
            parts: 0,
            cdev: None,
            largest: Memory::from_bytes(0),
        }
    }

    fn gpu(driver: &str) -> Function {
        function("0000:41:00.0", 0x0302, driver)
    }

    fn unusable(members: &[Function]) -> String {
        match judge(members) {
            Some(Binding::Unusable(reason)) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_gpu_alone_is_bound_or_can_be_switched() {
        assert_eq!(judge(&[gpu("vfio-pci")]), Some(Binding::Bound));
        assert_eq!(judge(&[gpu("nvidia")]), Some(Binding::Switchable));
        assert_eq!(judge(&[gpu("")]), Some(Binding::Switchable));
        assert!(unusable(&[gpu("nouveau")]).contains("with driver nouveau"));
        assert_eq!(judge(&[function("0000:00:1f.3", 0x0403, "snd_hda_intel")]), None);
    }

    #[test]
    fn a_cards_own_functions_are_no_obstacle_unless_the_host_uses_them_beside_a_bound_gpu() {
        let audio = |driver| function("0000:41:00.1", 0x0403, driver);
        let usb = function("0000:41:00.2", 0x0c03, "xhci_hcd");
        for driver in ["vfio-pci", "", "pci-stub"] {
            assert_eq!(judge(&[gpu("vfio-pci"), audio(driver)]), Some(Binding::Bound), "{driver}");
        }
        assert_eq!(judge(&[gpu("nvidia"), audio("snd_hda_intel"), usb]), Some(Binding::Switchable));
        assert!(
            unusable(&[gpu("vfio-pci"), audio("snd_hda_intel")]).contains("0000:41:00.1 is still with driver snd_hda")
        );
        // Another card's audio is somebody's.
        let other = function("0000:42:00.1", 0x0403, "snd_hda_intel");
        assert!(unusable(&[gpu("nvidia"), other]).contains("0000:42:00.1"));
    }

    #[test]
    fn what_the_host_uses_of_a_card_changes_its_driver_after_the_gpu() {
        let audio = |driver| function("0000:41:00.1", 0x0403, driver);
        let switch = function("0000:43:00.0", 0x0680, "");
        let places = |members: &[Function]| {
            changing(members)
                .into_iter()
                .map(|one| (one.pci.to_string(), one.driver.unwrap_or_default()))
                .collect::<Vec<_>>()
        };
        let place = |pci: &str, driver: &str| (pci.to_owned(), driver.to_owned());
        let both = [place("0000:41:00.0", "nvidia"), place("0000:41:00.1", "snd_hda_intel")];
        assert_eq!(places(&[audio("snd_hda_intel"), gpu("nvidia"), switch]), both);
        assert_eq!(places(&[gpu("nvidia"), audio("")]), both[..1]);
        assert!(places(&[gpu("vfio-pci"), audio("vfio-pci")]).is_empty());
    }

    #[test]
    fn without_acs_the_group_holds_what_others_use() {
        let bridge = function("0000:40:01.0", 0x0604, "pcieport");
        assert_eq!(judge(&[bridge.clone(), gpu("vfio-pci")]), Some(Binding::Bound));
        let network = Function { vendor: VendorId(0x15b3), ..function("0000:42:00.0", 0x0200, "mlx5_core") };
        let told = unusable(&[bridge, gpu("vfio-pci"), network]);
        assert!(told.contains("0000:42:00.0 with driver mlx5_core") && told.contains("ACS"), "{told}");
    }

    #[test]
    fn a_switch_goes_along_only_when_nvidias_driver_does_not_have_it() {
        let switch = |driver| function("0000:43:00.0", 0x0680, driver);
        assert_eq!(judge(&[gpu("vfio-pci"), switch("vfio-pci")]), Some(Binding::Bound));
        assert!(unusable(&[gpu("vfio-pci"), switch("nvidia-nvswitch")]).contains("NVSwitch 0000:43:00.0"));
    }

    #[test]
    fn two_gpus_in_one_group_are_one() {
        let second = |driver| function("0000:42:00.0", 0x0302, driver);
        assert_eq!(judge(&[gpu("vfio-pci"), second("vfio-pci")]), Some(Binding::Bound));
        assert_eq!(judge(&[gpu("vfio-pci"), second("nvidia")]), Some(Binding::Switchable));
    }

    #[test]
    fn a_gpu_that_is_divided_stays() {
        assert!(unusable(&[Function { parts: 4, ..gpu("nvidia") }]).contains("4 virtual functions"));
        assert_eq!(judge(&[Function { is_virtual: true, ..gpu("vfio-pci") }]), None);
    }

    proptest! {
        /// Whatever is in a group: where it is offered as it is, the host uses nothing of it.
        #[test]
        fn nothing_that_the_host_uses_is_in_a_bound_group(
            others in proptest::collection::vec((0u8..4, 0u8..6, any::<bool>()), 0..5)
        ) {
            let drivers = ["vfio-pci", "", "nvidia", "snd_hda_intel", "mlx5_core", "pcieport"];
            let classes = [0x0302, 0x0403, 0x0604, 0x0200];
            let member = |(n, (class, driver, ours)): (usize, (u8, u8, bool))| Function {
                vendor: if ours { VendorId::NVIDIA } else { VendorId(0x8086) },
                ..function(&format!("0000:41:00.{}", n + 1), classes[usize::from(class)], drivers[usize::from(driver)])
            };
            let mut members = vec![gpu("vfio-pci")];
            members.extend(others.into_iter().enumerate().map(member));
            if judge(&members) == Some(Binding::Bound) {
                let used = ["nvidia", "snd_hda_intel", "mlx5_core"];
                prop_assert!(members.iter().all(|m| m.driver.as_deref().is_none_or(|d| !used.contains(&d))), "{members:?}");
            }
        }
    }
}
