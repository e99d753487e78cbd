//! The runtime of a Kubernetes DRA driver's node plugin, for any vendor.

pub mod slices;
