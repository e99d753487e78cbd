//! Where things are, from a file beside the program: the container runtime starts it with nothing of its own.
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::Error;

/// The file's content.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Settings {
    /// The real runtime.
    pub(crate) runtime: PathBuf,
    /// Where what was seen is written.
    pub(crate) reports: PathBuf,
    /// The kubelet's pod-resources socket.
    pub(crate) kubelet: PathBuf,
    /// The directories of CDI specs.
    pub(crate) cdi: Vec<PathBuf>,
}

impl Settings {
    /// From the file that has the program's name with `.json`.
    pub(crate) fn beside(exe: &Path) -> Result<Self, Error> {
        let path = exe.with_extension("json");
        let read = std::fs::read(&path).map_err(Error::io(format!("read {}", path.display())))?;
        serde_json::from_slice(&read).map_err(|source| Error::Json { path, source })
    }
}
