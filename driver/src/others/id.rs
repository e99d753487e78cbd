//! How others name GPUs, read without trust: whatever they write, the answer is a GPU's identity or none.
use aliquot_model::{GpuUuid, PciAddress};
use k8s_openapi::api::resource::v1::Device;

/// No name of a GPU is longer; what is, is not looked at.
const LONGEST: usize = 256;
/// `GPU-` and a UUID in its usual form.
const UUID: usize = 40;
/// The domain of NVIDIA's and Google's device plugins' resources.
const DOMAIN: &str = "nvidia.com/";
/// Resources that are named so in NVIDIA's device plugin, where numbers are NVML's indices.
const NVIDIAS: [&str; 3] = ["nvidia.com/gpu", "nvidia.com/gpu.shared", "nvidia.com/mig-"];
/// What says where a DRA device is, the most reliable first.
const ATTRIBUTES: [&str; 4] = ["pciBusID", "pcieBusID", "parentUUID", "uuid"];
/// The domain of Kubernetes' standard attributes.
const STANDARD: &str = "resource.kubernetes.io";

/// A GPU as others name it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Named {
    /// NVML's UUID, also of a MIG device's or replica's GPU.
    Uuid(GpuUuid),
    /// Its place on the PCI bus.
    Pci(PciAddress),
    /// N in /dev/nvidiaN, as Google's device plugin names GPUs.
    Minor(u32),
    /// NVML's index.
    Index(u32),
    /// A MIG device that doesn't say whose part it is: its UUID is random.
    Partition,
}

/// The GPU behind a device plugin's device, of a resource.
///
/// NVIDIA's plugin names devices by UUID, replicas as `UUID::N`; MIG devices are `MIG-UUID`, or `MIG-GPU-UUID/GI/CI` with
/// drivers before 470. Google's has `nvidiaN`, `nvidiaN/giM` and `nvidiaN/vgpuM`. Others put a number after the UUID, or use
/// PCI addresses. Plain numbers are indices only where the resource is NVIDIA's: elsewhere they may be anything, as the
/// IOMMU groups of plugins for virtual machines are.
pub(crate) fn of_plugin(resource: &str, id: &str) -> Option<Named> {
    if id.len() > LONGEST {
        return None;
    }
    let device = id.split("::").next()?;
    if let Some(gpu) = gpu_uuid(device.strip_prefix("MIG-").unwrap_or(device)) {
        return Some(Named::Uuid(gpu));
    }
    if device.starts_with("MIG-") {
        return Some(Named::Partition);
    }
    if let Ok(pci) = device.to_ascii_lowercase().parse() {
        return Some(Named::Pci(pci));
    }
    let stem = device.split('/').next()?;
    if let Some(minor) = stem.strip_prefix("nvidia") {
        return resource.starts_with(DOMAIN).then(|| number(minor).map(Named::Minor)).flatten();
    }
    let is_nvidias =
        NVIDIAS.iter().any(|name| resource == *name || (name.ends_with('-') && resource.starts_with(name)));
    // "0:1" is MIG device 1 of GPU 0.
    is_nvidias.then(|| number(device.split(':').next()?).map(Named::Index)).flatten()
}

/// The GPU behind a device that a DRA driver publishes.
pub(crate) fn of_device(driver: &str, device: &Device) -> Option<Named> {
    let attributes = device.attributes.as_ref()?;
    let value = |name: &str| {
        let places = [format!("{STANDARD}/{name}"), name.to_owned(), format!("{driver}/{name}")];
        let text = places.iter().find_map(|place| attributes.get(place)?.string.as_deref())?;
        (text.len() <= LONGEST).then_some(text)
    };
    let texts: Vec<&str> = ATTRIBUTES.iter().filter_map(|name| value(name)).collect();
    let place = texts.iter().find_map(|text| text.to_ascii_lowercase().parse().ok().map(Named::Pci));
    let named = place.or_else(|| texts.iter().find_map(|text| gpu_uuid(text).map(Named::Uuid)));
    named.or_else(|| texts.iter().any(|text| text.starts_with("MIG-")).then_some(Named::Partition))
}

/// The UUID at the beginning of a name. What follows one in its usual form is whatever a plugin counts with.
fn gpu_uuid(text: &str) -> Option<GpuUuid> {
    let usual = text.get(..UUID).filter(|text| {
        text.strip_prefix("GPU-").is_some_and(|uuid| uuid.split('-').map(str::len).eq([8, 4, 4, 4, 12]))
    });
    usual.or_else(|| text.split('/').next())?.parse().ok()
}

/// Digits only: a sign is no part of a name.
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use aliquot_model::testing::gpu;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const GPU: &str = "GPU-00000041-6dfb-38a3-2f06-448166423d32";

    fn uuid() -> Named {
        Named::Uuid(gpu(0x41).uuid)
    }

    #[test]
    fn a_uuid_is_found_in_every_form_in_which_plugins_write_it() {
        for id in ["", "::0", "::31", "-3", "-_-12", "/7/0", "::0::1"] {
            assert_eq!(of_plugin("example.com/any", &format!("{GPU}{id}")), Some(uuid()), "{id}");
        }
        assert_eq!(of_plugin("nvidia.com/mig-1g.10gb", &format!("MIG-{GPU}/7/0")), Some(uuid()));
        assert_eq!(of_plugin("nvidia.com/gpu", "GPU-short/1"), Some(Named::Uuid("GPU-short".parse().unwrap())));
    }

    #[test]
    fn a_mig_device_of_todays_drivers_is_some_gpus() {
        let id = "MIG-0c757bd0-9d3d-5a5f-8d0b-bd1d3f8b5a35";
        assert_eq!(of_plugin("nvidia.com/mig-1g.10gb", id), Some(Named::Partition));
        assert_eq!(of_plugin("nvidia.com/gpu", &format!("{id}::3")), Some(Named::Partition));
    }

    #[test]
    fn places_and_minors_and_indices_are_told_apart() {
        let pci = Some(Named::Pci("0000:c1:00.0".parse().unwrap()));
        assert_eq!(of_plugin("example.com/gpu", "0000:C1:00.0"), pci);
        assert_eq!(of_plugin("nvidia.com/gpu", "nvidia3"), Some(Named::Minor(3)));
        assert_eq!(of_plugin("nvidia.com/gpu", "nvidia3/vgpu1"), Some(Named::Minor(3)));
        assert_eq!(of_plugin("nvidia.com/gpu", "nvidia3/gi1"), Some(Named::Minor(3)));
        assert_eq!(of_plugin("nvidia.com/gpu.shared", "5::2"), Some(Named::Index(5)));
        assert_eq!(of_plugin("nvidia.com/mig-1g.5gb", "5:2"), Some(Named::Index(5)));
    }

    #[test]
    fn a_number_of_another_resource_is_no_gpu() {
        // IOMMU groups, CPUs, slots of FUSE.
        for resource in ["nvidia.com/GH100_H100L_94GB", "example.com/cpu", "github.com/fuse"] {
            assert_eq!(of_plugin(resource, "5"), None, "{resource}");
        }
        assert_eq!(of_plugin("example.com/gpu", "nvidia3"), None);
        assert_eq!(of_plugin("nvidia.com/gpu", "+5"), None);
        assert_eq!(of_plugin("nvidia.com/gpu", "nvidia"), None);
        assert_eq!(of_plugin("nvidia.com/gpu", &"9".repeat(40)), None);
        assert_eq!(of_plugin("nvidia.com/gpu", &format!("{GPU}{}", "::0".repeat(200))), None);
    }

    #[test]
    fn a_dra_device_is_found_by_place_and_else_by_uuid() {
        let device = |attributes| serde_json::from_value(json!({"name": "x", "attributes": attributes})).unwrap();
        let of = |attributes| of_device("gpu.nvidia.com", &device(attributes));
        let pci = Some(Named::Pci("0000:41:00.0".parse().unwrap()));
        let text = |text: &str| json!({"string": text});
        assert_eq!(of(json!({"resource.kubernetes.io/pciBusID": text("0000:41:00.0"), "uuid": text(GPU)})), pci);
        assert_eq!(of(json!({"pciBusID": text("0000:41:00.0")})), pci);
        assert_eq!(of(json!({"gpu.nvidia.com/uuid": text(GPU)})), Some(uuid()));
        assert_eq!(of(json!({"uuid": text("MIG-1"), "parentUUID": text(GPU)})), Some(uuid()));
        assert_eq!(of(json!({"uuid": text("MIG-1")})), Some(Named::Partition));
        assert_eq!(of(json!({"uuid": {"int": 5}, "other.com/pciBusID": text("0000:41:00.0")})), None);
        assert_eq!(of(json!({})), None);
    }

    proptest! {
        #[test]
        fn whatever_others_write_is_read_without_harm(resource in "\\PC{0,40}", id in "\\PC{0,300}") {
            let _ = of_plugin(&resource, &id);
        }

        #[test]
        fn what_follows_a_uuid_never_makes_it_another_gpu(rest in "[ -~]{0,200}") {
            prop_assert_eq!(of_plugin("nvidia.com/gpu", &format!("{GPU}::{rest}")), Some(uuid()));
            let odd = of_plugin("nvidia.com/gpu", &format!("{GPU}{rest}"));
            prop_assert_eq!(odd, Some(uuid()));
        }
    }
}
