//! Pods with GPUs on a real cluster: the namespace that they are made in, and what becomes of them.
mod objects;
mod stage;

pub(crate) use objects::{Act, Kind};
pub use stage::Error;
pub(crate) use stage::Stage;
