//! A claim's record as its CDI spec: what the container runtime adds to each container that uses the claim.
//!
//! The spec follows from the record and the driver's installation alone. What every GPU needs stands at the top level of
//! the spec, which the runtime applies once per container; each device adds its own node.
mod hooks;
mod libraries;
mod nodes;
mod shares;

use cdi_spec::{ContainerEdits, Device, DeviceName, Kind, Spec};

use crate::{claim::Record, discovery::Found, roots::Roots};

/// Makes CDI specs.
#[derive(Debug, Clone)]
pub struct Edits {
    roots: Roots,
}

/// Why there is no spec for a record.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel's table of device numbers.
    #[error(transparent)]
    Nodes(#[from] nodes::Error),
    /// A name that CDI doesn't take.
    #[error(transparent)]
    Name(#[from] cdi_spec::InvalidName),
}

impl Edits {
    /// With all paths taken from one place.
    pub fn new(roots: Roots) -> Self {
        Self { roots }
    }

    /// The spec of one claim.
    pub fn spec(&self, kind: &Kind, record: &Record, found: &Found) -> Result<Spec, Error> {
        let mut devices: Vec<Device> = Vec::with_capacity(record.devices.len());
        for held in &record.devices {
            let name = DeviceName::new(held.cdi_name())?;
            // A claim may hold one device through two requests, for use and for administration; it is one CDI device.
            if devices.iter().all(|device| device.name != name) {
                let device_nodes = vec![nodes::gpu(&self.roots, held.minor)];
                let env = shares::env(record, &held.request);
                let hooks = hooks::of(&self.roots, record, &name);
                let container_edits = ContainerEdits { device_nodes, env, hooks, ..ContainerEdits::default() };
                devices.push(Device { name, container_edits });
            }
        }
        let common = ContainerEdits {
            // CUDA base images carry "all", and a legacy NVIDIA runtime on the node would inject every GPU for it.
            env: vec!["NVIDIA_VISIBLE_DEVICES=void".to_owned()],
            device_nodes: nodes::common(&self.roots)?,
            mounts: libraries::mounts(&self.roots, &found.installation),
            ..ContainerEdits::default()
        };
        Ok(Spec::new(kind.clone(), devices, common))
    }
}
