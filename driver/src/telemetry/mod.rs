//! What the driver tells of itself over HTTP: metrics and health.
pub(crate) mod health;
pub(crate) mod metrics;
mod sampling;
