//! `cargo xtask picture`: writes the picture of `aliquot-driver status` that stands in the README.
use std::fs;

use super::Error;
use crate::picture;

/// Runs the driver and the status command on a simulated node, and writes docs/status.svg.
pub(super) fn run() -> Result<(), Error> {
    super::build()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|source| Error::Io { what: "start the runtime".to_owned(), source })?;
    let picture = runtime.block_on(picture::draw()).map_err(Error::Broke)?;
    let path = picture::path();
    fs::write(&path, picture).map_err(|source| Error::Io { what: format!("write {}", path.display()), source })
}
