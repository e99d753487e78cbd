//! The attributes and capacities of each kind of device, in words: the reference is made of it, and the tests hold it to
//! what is published.

/// An attribute or a capacity.
#[derive(Debug)]
pub struct Described {
    /// The values of attribute `type` of the devices that have it.
    pub devices: &'static [&'static str],
    /// As it is published; without a domain, it is the driver's name.
    pub name: &'static str,
    /// `string`, `version`, `int` or `bool`; `quantity` of a capacity.
    pub kind: &'static str,
    /// What it says.
    pub about: &'static str,
    /// Who says so.
    pub from: &'static str,
}

const GPUS: &[&str] = &["gpu", "share", "admin"];
const ALL: &[&str] = &["gpu", "share", "admin", "vfio"];
const SHARES: &[&str] = &["share"];
const VFIO: &[&str] = &["vfio"];

const fn told(
    devices: &'static [&'static str],
    name: &'static str,
    kind: &'static str,
    about: &'static str,
    from: &'static str,
) -> Described {
    Described { devices, name, kind, about, from }
}

/// What claims select by. What isn't known of a GPU is left out.
pub const ATTRIBUTES: &[Described] = &[
    told(ALL, "type", "string", "the kind of device: `gpu`, `share`, `admin` or `vfio`", "the driver"),
    told(GPUS, "uuid", "string", "`GPU-…`, as `nvidia-smi -L` prints it", "`nvmlDeviceGetUUID`"),
    told(
        VFIO,
        "uuid",
        "string",
        "`GPU-pci-…`, made of its place: the GPU's own is NVIDIA's driver's to tell",
        "the driver",
    ),
    told(GPUS, "productName", "string", "such as `NVIDIA H100 80GB HBM3`", "`nvmlDeviceGetName`"),
    told(VFIO, "productName", "string", "such as `GH100 [H100 SXM5 80GB]`", "the node's pci.ids; the ids without it"),
    told(GPUS, "brand", "string", "such as `Nvidia` or `Tesla`", "`nvmlDeviceGetBrand`"),
    told(GPUS, "architecture", "string", "such as `Hopper`", "`nvmlDeviceGetArchitecture`"),
    told(GPUS, "cudaComputeCapability", "version", "such as `9.0.0`", "`nvmlDeviceGetCudaComputeCapability`"),
    told(GPUS, "driverVersion", "version", "of NVIDIA's driver, such as `580.65.6`", "`nvmlSystemGetDriverVersion`"),
    told(
        GPUS,
        "cudaDriverVersion",
        "version",
        "the newest CUDA that the driver supports, such as `13.0.0`",
        "`nvmlSystemGetCudaDriverVersion_v2`",
    ),
    told(GPUS, "index", "int", "NVML's; it changes when GPUs come and go", "`nvmlDeviceGetHandleByIndex_v2`"),
    told(GPUS, "minor", "int", "N in `/dev/nvidiaN`", "`nvmlDeviceGetMinorNumber`"),
    told(
        SHARES,
        "memoryEnforcement",
        "string",
        "who holds a container to its part of the memory: `hard`, `guard` or `none`",
        "the policy, and what NVIDIA's driver and the node can do",
    ),
    told(SHARES, "memoryGuard", "string", "what is done then: `off`, `observe`, `evict` or `kill`", "the policy"),
    told(VFIO, "vendorID", "string", "`0x10de`", "`/sys/bus/pci/devices/…/vendor`"),
    told(VFIO, "deviceID", "string", "such as `0x2330`", "`/sys/bus/pci/devices/…/device`"),
    told(VFIO, "iommuGroup", "int", "N in `/dev/vfio/N`", "`/sys/bus/pci/devices/…/iommu_group`"),
    told(
        VFIO,
        "iommuFDEnabled",
        "bool",
        "whether `PreferIommuFD` is had",
        "`/dev/iommu`, and `/sys/bus/pci/devices/…/vfio-dev`",
    ),
    told(VFIO, "gpus", "int", "how many GPUs the IOMMU group has", "`/sys/bus/pci/devices/…/iommu_group/devices`"),
    told(GPUS, "resource.kubernetes.io/pciBusID", "string", "such as `0000:41:00.0`", "`nvmlDeviceGetPciInfo_v3`"),
    told(VFIO, "resource.kubernetes.io/pciBusID", "string", "of the first GPU of the group", "`/sys/bus/pci/devices`"),
    told(
        ALL,
        "resource.kubernetes.io/pcieRoot",
        "string",
        "such as `pci0000:40`; devices with the same are near to each other",
        "the path of `/sys/bus/pci/devices/…`",
    ),
    told(
        ALL,
        "resource.kubernetes.io/numaNode",
        "int",
        "the NUMA node; absent where the firmware names none",
        "`/sys/bus/pci/devices/…/numa_node`",
    ),
];

/// What claims take of a device, or compare.
pub const CAPACITIES: &[Described] = &[
    told(&["gpu", "admin"], "memory", "quantity", "all of the GPU's", "`nvmlDeviceGetMemoryInfo_v2`, total"),
    told(
        SHARES,
        "memory",
        "quantity",
        "what shares divide; a claim takes the policy's default unless it asks for more or less. None where the GPU has the host's",
        "`nvmlDeviceGetMemoryInfo_v2`, total; the policy",
    ),
    told(SHARES, "shares", "quantity", "how many there are; a claim takes 1 unless it asks for more", "the policy"),
    told(
        VFIO,
        "addressableMemory",
        "quantity",
        "the size of the largest PCI region, of all GPUs of the group",
        "`/sys/bus/pci/devices/…/resource`",
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use aliquot_model::{Gpu, testing};
    use aliquot_params::policy::Policy;
    use k8s_openapi::api::resource::v1::{Device, DeviceAttribute};

    use super::{super::devices, *};

    /// One device of each kind, with all that can be known of it.
    fn published() -> Vec<Device> {
        let gpu = Gpu { pcie_root: Some("pci0000:40".into()), numa_node: Some(0), ..testing::gpu(0x41) };
        let mut vfio = testing::vfio(0x81);
        (vfio.gpu.pcie_root, vfio.gpu.numa_node) = (Some("pci0000:80".into()), Some(1));
        let policy = Policy::default().for_gpu(&gpu).unwrap();
        let part = devices::shared(&gpu, &policy.shares.unwrap(), true);
        vec![devices::whole(&gpu, true), part, devices::admin(&gpu), devices::vfio(&vfio, &[])]
    }

    fn kind_of(device: &Device) -> String {
        device.attributes.as_ref().unwrap()["type"].string.clone().unwrap()
    }

    fn type_of(value: &DeviceAttribute) -> &'static str {
        match value {
            DeviceAttribute { string: Some(_), .. } => "string",
            DeviceAttribute { version: Some(_), .. } => "version",
            DeviceAttribute { int: Some(_), .. } => "int",
            _ => "bool",
        }
    }

    fn described(all: &[Described], device: &str) -> Vec<(String, &'static str)> {
        let of_it = all.iter().filter(|described| described.devices.contains(&device));
        of_it.map(|described| (described.name.to_owned(), described.kind)).collect()
    }

    fn sorted(all: Vec<(String, &'static str)>) -> BTreeSet<(String, &'static str)> {
        let (count, set) = (all.len(), all.into_iter().collect::<BTreeSet<_>>());
        assert_eq!(set.len(), count, "one is described twice");
        set
    }

    #[test]
    fn all_that_is_published_is_described_with_its_type_and_nothing_else_is() {
        for device in published() {
            let kind = kind_of(&device);
            let attributes =
                device.attributes.unwrap().iter().map(|(name, value)| (name.clone(), type_of(value))).collect();
            assert_eq!(sorted(described(ATTRIBUTES, &kind)), attributes, "attributes of {kind}");
            let capacities = device.capacity.unwrap().into_keys().map(|name| (name, "quantity")).collect();
            assert_eq!(sorted(described(CAPACITIES, &kind)), capacities, "capacities of {kind}");
        }
    }
}
