//! `cargo xtask reference`: writes what in docs/ is made from the code.
use std::{fs, path::Path};

use super::Error;
use crate::reference;

/// Writes docs/reference/ anew.
pub(super) fn run() -> Result<(), Error> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference");
    for (name, page) in reference::pages() {
        let path = dir.join(name);
        fs::write(&path, page).map_err(|source| Error::Io { what: format!("write {}", path.display()), source })?;
    }
    Ok(())
}
