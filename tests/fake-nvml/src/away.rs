//! GPUs that another kernel driver than NVIDIA's has, in a file beside the control file.
use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

/// UUIDs of GPUs that aren't there for NVML; like those that a control file says are removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Away(pub BTreeSet<String>);

impl Away {
    /// Of the node with this control file.
    pub fn beside(control: &Path) -> Self {
        let text = fs::read_to_string(file(control)).unwrap_or_default();
        Self(text.lines().map(ToOwned::to_owned).collect())
    }

    /// Makes it so.
    pub fn keep(&self, control: &Path) -> io::Result<()> {
        let fresh = file(control).with_extension("new");
        fs::write(&fresh, self.0.iter().map(|uuid| format!("{uuid}\n")).collect::<String>())?;
        fs::rename(fresh, file(control))
    }
}

fn file(control: &Path) -> PathBuf {
    let mut path = OsString::from(control);
    path.push(".away");
    path.into()
}
