//! Kubernetes AI conformance, "secure accelerator access": the requirement's two tests, step by step, on a real cluster.
//!
//! Pods ask for `nvidia.com/gpu`, and which GPU each may see is read from the claim that the scheduler made for it
//! (KEP-5004). So the steps hold for whole GPUs, where two pods see different ones, and for shares, where they may see one.
mod cluster;
mod command;
mod judge;
mod offer;
mod pods;
mod steps;

pub use crate::steps::{Report, Step};
pub use cluster::{Cluster, Error};
pub use offer::{Missing, Offer};
pub use steps::run;

/// What pods written for device plugins ask for.
pub const RESOURCE: &str = "nvidia.com/gpu";
/// The runtime class that they name.
pub const RUNTIME_CLASS: &str = "nvidia";
/// The image of the requirement's own pods.
pub const IMAGE: &str = "nvcr.io/nvidia/k8s/cuda-sample:vectoradd-cuda12.5.0-ubuntu22.04";
/// The namespace of the requirement's own pods.
pub const NAMESPACE: &str = "k8s-ai-conformance";
