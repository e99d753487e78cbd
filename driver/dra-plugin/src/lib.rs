//! The runtime of a Kubernetes DRA driver's node plugin, for any vendor: the kubelet's side and the API server's side of
//! dynamic resource allocation, so that a driver is left with its devices.
//!
//! ```text
//!            registration socket                      DRA socket
//! kubelet ──> authority ──> registration    kubelet ──> service ──> runner ──> Driver (yours)
//!               │                                         │           │  recall: is it prepared already?
//!               └ makes the watcher's calls acceptable    │           │  prepare, unprepare
//!                                                         │           └─> fetch ──> API server
//!                                      v1 and v1beta1 ────┘      one queue per claim, UID-checked,
//!                                      health stream             retried within the kubelet's 45 s
//!
//! your devices ──> slices ──> ResourceSlices in the API server
//! your health  ──> health ──> kubelet ──> status of pods
//! ```
//!
//! Implement [`Driver`], give it to [`Plugin::builder`], and run it. What is taken care of:
//!
//! - the order of start and stop, sockets that were left, stolen or removed, two instances during a rolling update;
//! - one answer for each claim, whatever becomes of it; claims run to their end although the kubelet stops waiting;
//! - calls for one claim one after the other, with a prepare told to give up when its claim is to be unprepared;
//! - the claim as it is in the API server now, only with the UID that the kubelet named, only this driver's part of it;
//! - what containers may read of their devices (KEP-5304), for drivers that want it: [`metadata`].
//!
//! What measures it all is yours: [`Observer`].
//!
//! The crate enables no version feature of `k8s-openapi`; the binary chooses one, `v1_34` or later.

mod authority;
mod backoff;
mod causes;
mod claim;
mod driver;
mod fetch;
mod health;
mod incoming;
pub mod metadata;
mod name;
mod observer;
mod plugin;
mod registration;
mod runner;
mod service;
pub mod slices;
mod socket;

pub use authority::LocalAuthority;
pub use backoff::Backoff;
pub use claim::{
    AllocatedClaim, ClaimRef, ClaimUid, ConfigSource, DeviceResult, InvalidClaim, OpaqueConfig, PodRef, PreparedDevice,
    RequestName,
};
pub use driver::{Call, Driver, FailedClaim, Failure, Operation};
pub use health::{DeviceHealth, HealthStatus};
pub use name::{DriverName, InvalidDriverName};
pub use observer::{Observer, Reason};
pub use plugin::{BuildError, Builder, Plugin, RunError};
pub use registration::Registration;
pub use runner::Turns;
pub use socket::SocketError;
