//! Testbed, suites, playground and xtask.
pub mod bench;
pub mod crash;
pub mod debian;
mod digest;
pub mod holds;
pub mod image;
pub mod isolation;
mod look;
pub mod node;
pub mod objects;
pub mod playground;
pub mod policies;
pub mod random;
pub mod runtime;
pub mod skip;
pub mod tasks;
pub mod testbed;
