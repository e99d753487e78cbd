//! Container Device Interface specs: types that one can construct, their rules, and an atomic store.
//!
//! ```text
//! Spec { kind, devices, common } ──Store::write──> <dir>/<vendor>-<class>_<id>.json ──> containerd, CRI-O
//! ```
//! Only what a driver that makes specs needs of the CDI specification is here; reading foreign specs is not.
#![forbid(unsafe_code)]

mod edits;
mod name;
mod spec;
mod store;

pub use edits::{ContainerEdits, DeviceNode, Hook, HookEnv, HookName, InvalidHookEnv, Mount, NodeType};
pub use name::{DeviceName, InvalidName, Kind};
pub use spec::{Device, Spec, Version};
pub use store::{Store, StoreError, Stored};
