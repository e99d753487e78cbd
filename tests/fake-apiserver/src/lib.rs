//! A small stand-in for the Kubernetes API server, in memory and over plain HTTP.
//!
//! ```text
//! request ──> permissions ──> faults (injected trouble) ──> routes ──> store ──log──> watches
//!                                                             └─> apply, selectors, table: how it is written, chosen, shown
//! ```
//! It does what clients of this project rely on, as the real one does it: resource versions and conflicts, the status
//! subresource, server-side apply, selectors, paging, watches with bookmarks and expiry, tables for kubectl, fields that
//! are dropped when a feature is off. It knows no schemas, no admission but of slices where a test says so, and no `OpenAPI`: `kubectl apply` needs
//! `--validate=false`. It refuses only those whose token was given rules; permissions that a test denies otherwise are only
//! told to those who review theirs.
mod apply;
mod device_status;
mod discovery;
mod faults;
mod held;
mod kinds;
mod permissions;
mod reviews;
mod routes;
mod selectors;
mod server;
mod status;
mod store;
mod table;
mod watch;

pub use faults::{Fault, Trouble};
pub use permissions::{Asked, Rule};
pub use server::{Builder, Server, StartError};
