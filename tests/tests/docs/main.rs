//! What is written in docs/ and could drift from the code: Events, flags, pictures.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod events;
mod made;

use std::path::{Path, PathBuf};

/// The repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}
