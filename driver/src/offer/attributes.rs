//! Attribute and capacity names and values of GPUs and their shares.
//!
//! Names and types are those of NVIDIA's DRA driver, so that CEL written for it needs its domain changed and nothing
//! else; those under `resource.kubernetes.io` are Kubernetes' standard ones.
use std::collections::BTreeMap;

use aliquot_model::{DeviceName, Gpu, GpuUuid, Inventory, Memory, Part, Vfio, semver};
use aliquot_params::policy::{GuardMode, Shares};
use k8s_openapi::{
    api::resource::v1::{DeviceAttribute, DeviceCapacity},
    apimachinery::pkg::api::resource::Quantity,
};

use super::lost::Passed;

/// The API server refuses a longer string value.
const LONGEST_STRING: usize = 64;

/// All attributes of a whole GPU.
pub(super) fn of_whole(gpu: &Gpu) -> BTreeMap<String, DeviceAttribute> {
    of(gpu, "gpu")
}

/// All attributes of a GPU for those who look after it.
pub(super) fn of_admin(gpu: &Gpu) -> BTreeMap<String, DeviceAttribute> {
    of(gpu, "admin")
}

/// All attributes of a share: those of its GPU, and what holds its users to their memory.
pub(super) fn of_share(gpu: &Gpu, shares: &Shares) -> BTreeMap<String, DeviceAttribute> {
    let mut all = of(gpu, "share");
    let told = [("memoryEnforcement", enforcement(gpu, shares)), ("memoryGuard", shares.guard.mode.as_str())];
    all.extend(told.into_iter().filter_map(|(name, value)| Some((name.to_owned(), text(value)?))));
    all
}

/// Who holds a share's users to its memory: NVIDIA's driver, which gives them no more (`hard`); or this one, which notices
/// it (`guard`; `memoryGuard` says what it does then, under `hard` as well); or nobody.
fn enforcement(gpu: &Gpu, shares: &Shares) -> &'static str {
    if gpu.hard_limits && shares.memory.bytes() > 0 {
        "hard"
    } else if shares.guard.mode == GuardMode::Off || !gpu.process_memory {
        "none"
    } else {
        "guard"
    }
}

fn of(gpu: &Gpu, kind: &str) -> BTreeMap<String, DeviceAttribute> {
    let capability = format!("{}.{}", gpu.compute_capability.major, gpu.compute_capability.minor);
    let all = [
        ("type", text(kind)),
        ("uuid", text(gpu.uuid.as_str())),
        ("productName", text(&gpu.product_name)),
        ("brand", text(&gpu.brand)),
        ("architecture", text(&gpu.architecture)),
        ("cudaComputeCapability", version(&capability)),
        ("driverVersion", version(&gpu.driver_version)),
        ("cudaDriverVersion", version(&gpu.cuda_driver_version)),
        ("index", Some(number(gpu.index))),
        ("minor", Some(number(gpu.minor))),
        ("resource.kubernetes.io/pciBusID", text(&gpu.pci.to_string())),
        ("resource.kubernetes.io/pcieRoot", gpu.pcie_root.as_deref().and_then(text)),
        ("resource.kubernetes.io/numaNode", gpu.numa_node.map(number)),
    ];
    all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// All attributes of what a virtual machine can be given. NVIDIA's driver isn't there to tell more of it.
pub(super) fn of_vfio(vfio: &Vfio) -> BTreeMap<String, DeviceAttribute> {
    let gpu = &vfio.gpu;
    // What is still to be taken has no nodes of devices yet, and has them with the kernels that have iommufd.
    let has_nodes = !vfio.functions.is_empty() || vfio.gpus().all(|gpu| gpu.cdev.is_some());
    let all = [
        ("type", text("vfio")),
        ("uuid", text(GpuUuid::of_place(gpu.pci).as_str())),
        ("productName", text(&gpu.product_name)),
        ("vendorID", text(&gpu.vendor.to_string())),
        ("deviceID", text(&gpu.device.to_string())),
        ("iommuGroup", Some(number(vfio.group.0))),
        ("iommuFDEnabled", Some(flag(vfio.iommufd && has_nodes))),
        ("gpus", Some(number(u32::try_from(vfio.gpus().count()).unwrap_or(u32::MAX)))),
        ("resource.kubernetes.io/pciBusID", text(&gpu.pci.to_string())),
        ("resource.kubernetes.io/pcieRoot", gpu.pcie_root.as_deref().and_then(text)),
        ("resource.kubernetes.io/numaNode", gpu.numa_node.map(number)),
    ];
    all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// What a record knows of what a virtual machine was given.
pub(super) fn of_lost(passed: &Passed) -> BTreeMap<String, DeviceAttribute> {
    let first = passed.gpus.first();
    let all = [
        ("type", text("vfio")),
        ("uuid", first.and_then(|pci| text(GpuUuid::of_place(*pci).as_str()))),
        ("iommuGroup", Some(number(passed.group.0))),
        ("gpus", Some(number(u32::try_from(passed.gpus.len()).unwrap_or(u32::MAX)))),
        ("resource.kubernetes.io/pciBusID", first.and_then(|pci| text(&pci.to_string()))),
    ];
    all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// What is published of a device, whatever the policy says of its GPU: without what holds a share's users to their memory.
pub(crate) fn of_device(inventory: &Inventory, name: &DeviceName) -> Option<BTreeMap<String, DeviceAttribute>> {
    if let Some(vfio) = inventory.passthrough(name) {
        return Some(of_vfio(vfio));
    }
    let (gpu, part) = inventory.device(name)?;
    Some(match part {
        Part::Whole => of_whole(gpu),
        Part::Admin => of_admin(gpu),
        Part::Shared | Part::Slot(_) | Part::Vfio => of(gpu, "share"),
    })
}

/// All capacities of a whole GPU.
pub(super) fn capacity(gpu: &Gpu) -> BTreeMap<String, DeviceCapacity> {
    BTreeMap::from([("memory".to_owned(), amount(gpu.memory))])
}

/// All capacities of what a virtual machine can be given: its memory is known to the guest's driver only.
pub(super) fn capacity_of_vfio(vfio: &Vfio) -> BTreeMap<String, DeviceCapacity> {
    let addressable: Memory = vfio.gpus().map(|gpu| gpu.addressable).sum();
    BTreeMap::from([("addressableMemory".to_owned(), amount(addressable))])
}

fn amount(memory: Memory) -> DeviceCapacity {
    DeviceCapacity { value: Quantity(memory.to_string()), request_policy: None }
}

pub(crate) fn text(value: &str) -> Option<DeviceAttribute> {
    let end = value.floor_char_boundary(LONGEST_STRING);
    let value = value.get(..end).filter(|value| !value.is_empty())?;
    Some(DeviceAttribute { string: Some(value.to_owned()), ..DeviceAttribute::default() })
}

/// A version that is no semver is left out, since one bad attribute would have the whole slice refused.
fn version(value: &str) -> Option<DeviceAttribute> {
    Some(DeviceAttribute { version: Some(semver(value)?), ..DeviceAttribute::default() })
}

fn number(value: u32) -> DeviceAttribute {
    DeviceAttribute { int: Some(value.into()), ..DeviceAttribute::default() }
}

fn flag(value: bool) -> DeviceAttribute {
    DeviceAttribute { bool: Some(value), ..DeviceAttribute::default() }
}

#[cfg(test)]
mod tests {
    use aliquot_model::testing;
    use aliquot_params::policy::Policy;

    use super::*;

    fn gpu() -> Gpu {
        Gpu {
            uuid: "GPU-a669635e-6dfb-38a3-2f06-448166423d32".parse().unwrap(),
            index: 3,
            minor: 2,
            memory: Memory::from_bytes(81_559 << 20),
            pcie_root: Some("pci0000:40".into()),
            numa_node: Some(0),
            ..testing::gpu(0x41)
        }
    }

    #[test]
    fn a_whole_gpu_says_all_that_claims_select_by() {
        let attributes = serde_json::to_value(of_whole(&gpu())).unwrap();
        assert_eq!(
            attributes,
            serde_json::json!({
                "type": {"string": "gpu"},
                "uuid": {"string": "GPU-a669635e-6dfb-38a3-2f06-448166423d32"},
                "productName": {"string": "NVIDIA H100 80GB HBM3"},
                "brand": {"string": "Nvidia"},
                "architecture": {"string": "Hopper"},
                "cudaComputeCapability": {"version": "9.0.0"},
                "driverVersion": {"version": "580.65.6"},
                "cudaDriverVersion": {"version": "13.0.0"},
                "index": {"int": 3},
                "minor": {"int": 2},
                "resource.kubernetes.io/pciBusID": {"string": "0000:41:00.0"},
                "resource.kubernetes.io/pcieRoot": {"string": "pci0000:40"},
                "resource.kubernetes.io/numaNode": {"int": 0},
            })
        );
        assert_eq!(capacity(&gpu())["memory"].value.0, "81559Mi");
    }

    #[test]
    fn what_is_for_virtual_machines_says_what_sysfs_knows() {
        let mut vfio = testing::vfio(0x41);
        vfio.iommufd = true;
        vfio.gpu.cdev = Some("vfio0".into());
        vfio.gpu.numa_node = Some(1);
        let attributes = serde_json::to_value(of_vfio(&vfio)).unwrap();
        assert_eq!(
            attributes,
            serde_json::json!({
                "type": {"string": "vfio"},
                "uuid": {"string": "GPU-pci-0000-41-00-0"},
                "productName": {"string": "GH100 [H100 SXM5 80GB]"},
                "vendorID": {"string": "0x10de"},
                "deviceID": {"string": "0x2330"},
                "iommuGroup": {"int": 65},
                "iommuFDEnabled": {"bool": true},
                "gpus": {"int": 1},
                "resource.kubernetes.io/pciBusID": {"string": "0000:41:00.0"},
                "resource.kubernetes.io/numaNode": {"int": 1},
            })
        );
        assert_eq!(capacity_of_vfio(&vfio)["addressableMemory"].value.0, "128Gi");
    }

    #[test]
    fn a_share_says_who_holds_its_users_to_their_memory() {
        let shares = |gpu: &Gpu| Policy::default().for_gpu(gpu).unwrap().shares.unwrap();
        let told = |gpu: &Gpu, shares: &Shares| {
            let all = of_share(gpu, shares);
            let value = |name: &str| all[name].string.clone().unwrap();
            (value("type"), value("memoryEnforcement"), value("memoryGuard"))
        };
        let expected = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
        assert_eq!(told(&gpu(), &shares(&gpu())), expected("share", "guard", "observe"));
        let silent = Gpu { process_memory: false, ..gpu() };
        assert_eq!(told(&silent, &shares(&silent)), expected("share", "none", "observe"));
        let mut off = shares(&gpu());
        off.guard.mode = GuardMode::Off;
        assert_eq!(told(&gpu(), &off), expected("share", "none", "off"));
        let hard = Gpu { hard_limits: true, ..gpu() };
        assert_eq!(told(&hard, &shares(&hard)), expected("share", "hard", "observe"));
        assert_eq!(told(&hard, &off), expected("share", "hard", "off"));
        let unified = Gpu { memory: Memory::from_bytes(0), ..hard };
        assert_eq!(told(&unified, &shares(&unified)), expected("share", "guard", "observe"));
    }

    #[test]
    fn what_the_api_server_would_refuse_is_cut_or_left_out() {
        let odd = Gpu {
            product_name: "ü".repeat(40),
            driver_version: "r580".into(),
            brand: String::new(),
            pcie_root: None,
            numa_node: None,
            ..gpu()
        };
        let attributes = of_whole(&odd);
        assert_eq!(attributes["productName"].string.as_ref().unwrap().len(), 64);
        for name in ["driverVersion", "brand", "resource.kubernetes.io/pcieRoot", "resource.kubernetes.io/numaNode"] {
            assert!(!attributes.contains_key(name), "{name}");
        }
    }
}
