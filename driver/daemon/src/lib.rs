//! What a program of this project that runs on needs besides its work: logs, an orderly end, probes and metrics.
//!
//! It knows nothing of GPUs, and of Kubernetes no more than that its client logs; the driver and the controller are its users.
#![forbid(unsafe_code)]

mod errors;
mod format;
mod grpc;
pub mod logs;
pub mod pages;
mod signals;

pub use errors::report;
pub use signals::stop_on_signals;
