//! A stand-in for the kubelet's side of the DRA protocol.
//!
//! ```text
//! plugins_registry/ ──inotify──> registry ──raw HTTP/2──> registration ──> plugins ──> wipe ResourceSlices
//!                                                                            │
//! run_pod, stop_pod ──> claims ──(GET claim, checks, checkpoint)──> driver ──┴──gRPC──> prepare, unprepare
//! ```
//!
//! It does what the kubelet of Kubernetes 1.34 to 1.37 does towards a driver (`pkg/kubelet/cm/dra` and
//! `pkg/kubelet/pluginmanager`), with the kubelet's deadlines, choices and words, and without its containers. Where the
//! kubelet polls once a second, this reacts at once. The [`allocator`] stands in for the scheduler.
pub mod allocator;
mod checkpoint;
mod claim_errors;
mod claims;
mod device_plugins;
mod dial;
mod driver;
mod health;
mod hpack;
mod kubelet;
mod link;
mod plugins;
mod pod;
mod pod_resources;
mod registration;
mod registry;

pub use claim_errors::{CallError, PrepareError, UnprepareError};
pub use device_plugins::DevicePlugins;
pub use dial::{Connection, DialError, authority_of};
pub use driver::{Driver, Version};
pub use health::Health;
pub use kubelet::{Builder, Kubelet, NotRegistered, StartError};
pub use kubelet_api::health::v1alpha1::HealthStatus;
pub use link::Route;
pub use plugins::PluginError;
pub use pod::{ClaimUse, Container, PodClaim, PodSpec, RunningPod};
pub use pod_resources::ListTrouble;
pub use registration::{InvalidInfo, Registered, RegistrationError};
pub use registry::Registration;
