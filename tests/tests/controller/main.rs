//! The controller: what it removes, tells, refuses and leaves alone, and which replica does it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod leader;
mod probes;
mod rbac;
mod release;
mod scale;
mod slices;
mod stuck;
mod webhook;

/// Short graces, and a Lease that is lost soon.
const FAST: [&str; 3] = ["--slice-grace=1s", "--stuck-after=1s", "--lease-duration=3s"];
/// The same with graces that don't end within a test.
const PATIENT: [&str; 3] = ["--slice-grace=10m", "--stuck-after=10m", "--lease-duration=3s"];
