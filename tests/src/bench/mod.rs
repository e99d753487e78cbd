//! Measures a DRA driver's socket as the kubelet sees it, beside a floor that is measured in the same run.
//!
//! The floor is what no driver that keeps its promises can do without: one GET of the claim, one record and one CDI spec,
//! both written whole and renamed into place.
pub mod claims;
pub mod controller;
pub mod embedded;
mod floor;
mod hook;
mod measure;
mod report;
mod shares;
mod socket;
mod specs;

pub use floor::Floor;
pub use measure::{Plan, prepare};
pub use report::{Figure, Report};
pub use socket::{Driver, SocketError};
