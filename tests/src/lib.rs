//! Testbed, suites, playground and xtask.
pub mod tasks;
