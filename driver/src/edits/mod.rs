//! What the container runtime adds to containers, as CDI specs.
//!
//! Two specs meet in a container. The node's holds what everybody needs who uses any GPU: the driver's files, its control
//! nodes, and the hook that makes them known in the image. A claim's holds its devices' own nodes, and is small, since each
//! claim has one. Both follow from the record and the driver's installation alone.
#[cfg(test)]
mod golden;
mod hooks;
mod mounts;
pub(crate) mod nodes;
mod shares;
#[cfg(test)]
mod tests;
mod vfio;

/// A way in for the fuzzer.
#[cfg(fuzzing)]
pub(crate) mod fuzzing {
    /// The number of a driver in the table of devices.
    pub(crate) fn major(table: &str) {
        let _ = super::nodes::major(table, "nvidia-uvm");
    }
}

use aliquot_model::Vfio;
use aliquot_params::Iommu;
use cdi_spec::{ContainerEdits, Device, DeviceName, InvalidName, Kind, Spec};

use crate::{
    claim::{Passed, Record},
    discovery::Found,
    hook::Hook,
    roots::Roots,
};

/// The class of the node's spec, beside that of claims.
const CLASS: &str = "driver";
/// The name of its one device.
const NODE: &str = "node";

/// The loader's default directory in Debian's family, and in the driver's mounts of all images.
#[cfg(target_arch = "x86_64")]
const LIBRARY_DIR: &str = "/usr/lib/x86_64-linux-gnu";
#[cfg(target_arch = "aarch64")]
const LIBRARY_DIR: &str = "/usr/lib/aarch64-linux-gnu";
/// That of the others.
const OTHER_LIBRARY_DIR: &str = "/usr/lib64";

/// Makes CDI specs.
#[derive(Debug, Clone)]
pub struct Edits {
    roots: Roots,
    hook: Option<Hook>,
}

/// Why there is no spec for a record.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel's table of device numbers.
    #[error(transparent)]
    Nodes(#[from] nodes::Error),
    /// What a virtual machine is given isn't there.
    #[error(transparent)]
    Vfio(#[from] vfio::Error),
    /// A name that CDI doesn't take.
    #[error(transparent)]
    Name(#[from] InvalidName),
}

/// What all claims of a node use, by its names in the CDI directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// `gpu.aliquot.dev/driver`.
    pub kind: Kind,
    /// `gpu.aliquot.dev/driver=node`, for runtimes.
    pub cdi_id: String,
}

impl Base {
    /// The id in its file's name.
    pub const FILE: &str = NODE;

    /// Of the claims of one kind.
    pub fn of(claims: &Kind) -> Result<Self, InvalidName> {
        let kind = Kind::new(claims.vendor(), CLASS)?;
        let cdi_id = kind.qualified(&DeviceName::new(NODE)?);
        Ok(Self { kind, cdi_id })
    }
}

impl Edits {
    /// With all paths taken from one place, and the hook that was installed.
    pub fn new(roots: Roots, hook: Option<Hook>) -> Self {
        Self { roots, hook }
    }

    /// The spec of the node.
    pub fn base(&self, base: &Base, found: &Found) -> Result<Spec, Error> {
        let installation = &found.installation;
        let container_edits = ContainerEdits {
            // CUDA base images carry "all", and a legacy NVIDIA runtime on the node would inject every GPU for it.
            env: vec!["NVIDIA_VISIBLE_DEVICES=void".to_owned()],
            device_nodes: nodes::common(&self.roots)?,
            mounts: mounts::of(&self.roots, installation, self.hook.is_some()),
            hooks: self.hook.iter().map(|hook| hooks::prepare(hook, installation)).collect(),
        };
        let device = Device { name: DeviceName::new(NODE)?, container_edits };
        Ok(Spec::new(base.kind.clone(), vec![device], ContainerEdits::default()))
    }

    /// What a runtime needs for all GPUs of an IOMMU group.
    pub(crate) fn group(&self, vfio: &Vfio) -> Result<ContainerEdits, Error> {
        let gpus = vfio.gpus().map(|gpu| gpu.pci).collect();
        Ok(vfio::of(&self.roots, &Passed { group: vfio.group, gpus, iommu: Iommu::default(), taken: None })?)
    }

    /// The spec of one claim.
    pub fn spec(&self, kind: &Kind, record: &Record, found: &Found) -> Result<Spec, Error> {
        let mut devices: Vec<Device> = Vec::with_capacity(record.devices.len());
        for held in &record.devices {
            let name = DeviceName::new(held.cdi_name())?;
            // A claim may hold one device through two requests, for use and for administration; it is one CDI device.
            if devices.iter().any(|device| device.name == name) {
                continue;
            }
            if let Some(passed) = &held.vfio {
                devices.push(Device { name, container_edits: vfio::of(&self.roots, passed)? });
            } else {
                let gpu = found.inventory.gpus().iter().find(|gpu| gpu.uuid == held.gpu);
                let mut device_nodes: Vec<_> =
                    held.minor.map(|minor| nodes::gpu(&self.roots, minor)).into_iter().collect();
                device_nodes.extend(gpu.iter().flat_map(|gpu| nodes::drm(&self.roots, gpu)));
                let by_path = self.hook.as_ref().zip(gpu).and_then(|(hook, gpu)| hooks::by_path(hook, gpu));
                let container_edits = ContainerEdits {
                    env: shares::env(record, &held.request),
                    device_nodes,
                    hooks: by_path.into_iter().chain(hooks::limit(&self.roots, record, &name)).collect(),
                    ..ContainerEdits::default()
                };
                devices.push(Device { name, container_edits });
            }
        }
        let passed = record.devices.iter().filter_map(|held| held.vfio.as_ref());
        Ok(Spec::new(kind.clone(), devices, vfio::interfaces(&self.roots, passed)))
    }
}
