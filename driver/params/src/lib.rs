//! What administrators and users write: the opaque parameters of claims and classes, and the policy file. Decoded strictly.
//!
//! ```yaml
//! apiVersion: gpu.aliquot.dev/v1alpha1
//! kind: ShareConfig
//! sharing:
//!   strategy: TimeSlicing
//!   timeSlicingConfig: {interval: Short}
//! ```
//! Everything that is wrong is reported at once, each fault with its place. What isn't understood is an error: a parameter
//! with no effect would be found out in production.
#![forbid(unsafe_code)]

mod config;
mod fault;
mod fields;
mod form;
pub mod policy;
mod time;

pub use config::{Config, Iommu, IommuBackend, Sharing, TimeSlicing, decode};
pub use fault::{Fault, Faults};
pub use fields::type_of;
pub use form::{FORMS, Field, Form, Takes};
pub use time::{InvalidDuration, TimeSlice, duration};

/// The version of the policy, and of our own parameters.
pub const API_VERSION: &str = "gpu.aliquot.dev/v1alpha1";

/// The version of the parameters of NVIDIA's DRA driver, which are taken as far as they have a meaning here.
pub const NVIDIA_API_VERSION: &str = "resource.nvidia.com/v1beta1";
