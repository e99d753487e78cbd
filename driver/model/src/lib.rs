//! What a node's GPUs are: plain types without I/O, Kubernetes or unsafe code.
//!
//! ```text
//! NVML, sysfs ──> Inventory { gpus: Vec<Gpu>, broken: Vec<BrokenGpu>, vfio: Vec<Vfio> } ──> offer, plan
//! ```
//! Every identity is a type of its own, so that a GPU's UUID can't be taken for a device's name.
#![forbid(unsafe_code)]

mod gpu;
mod memory;
mod name;
mod pci;
#[cfg(feature = "testing")]
pub mod testing;
mod version;
mod vfio;
mod xid;

pub use gpu::{BrokenGpu, ComputeCapability, DrmNode, Gpu, Inventory};
pub use memory::{InvalidMemory, Memory};
pub use name::{DeviceName, GpuUuid, InvalidDeviceName, InvalidGpuUuid, Part, SHARED};
pub use pci::{InvalidPciAddress, PciAddress};
pub use version::semver;
pub use vfio::{Away, Binding, DeviceId, IommuGroup, Origin, Taken, VendorId, Vfio, VfioGpu};
pub use xid::{Remedy, Xid};
