//! Publishes a node's devices as `ResourceSlices` and keeps them published.
//!
//! ```text
//!            Pool ──desired──> the slices that should be ──┐
//!                                                          ├─diff──> Plan ──publisher──> API server
//! list, watch ──mirror──> the slices that are ─────────────┘             │
//!                  ^                                                     │
//!                  └───────── what was stored (dropped fields) ──────────┘
//! ```
//!
//! Everything left of `publisher` is pure. A driver talks to the [`Handle`] only: [`Handle::publish`] takes the whole
//! pool, as often as the driver likes, and [`Handle::status`] says what became of it.
mod api;
mod debounce;
mod desired;
mod diff;
mod dropped;
mod handle;
mod mirror;
mod names;
mod pool;
mod publisher;
pub(crate) mod quantity;
mod rehearsal;
mod semantic;
mod status;
#[cfg(test)]
mod testing;
mod validate;

pub use dropped::{DroppedField, Feature};
pub use handle::Handle;
pub use pool::{InvalidName, NodeName, Pool, PoolName};
pub use publisher::Publisher;
pub use rehearsal::{Rehearsal, RehearsalError, rehearse};
pub use status::PublishStatus;
pub use validate::{Fault, Faults};
