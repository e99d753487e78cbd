//! The dashboard: every panel's query returns series from a real Prometheus that scrapes the real driver and controller.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod panels;
mod queries;
mod scene;
