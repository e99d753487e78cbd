//! Names contents by their SHA-256.
use std::fmt::Write as _;

use sha2::{Digest, Sha256};

/// The digest in hexadecimal.
pub(crate) fn sha256(content: &[u8]) -> String {
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(content) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}
