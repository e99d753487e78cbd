//! What a scrape of the real driver tells: of GPUs, of calls, of who holds what, and in which words.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod calls;
mod formats;
mod gpus;
mod page;
mod scene;
