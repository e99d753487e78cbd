//! Memory limits that were set, in a file beside the control file so that all of a node's processes share them.
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::state;

/// All limits, by the GPU's UUID and then the cgroup's path.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Limits(pub BTreeMap<String, BTreeMap<String, Limit>>);

/// What one cgroup may have of one GPU's memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limit {
    /// What it is sure of.
    pub soft: u64,
    /// The most that it gets; `u64::MAX` is no limit.
    pub hard: u64,
    /// Of the cgroup's directory.
    pub inode: u64,
}

/// For a process without a control file.
static OWN: Mutex<Limits> = Mutex::new(Limits(BTreeMap::new()));

impl Limits {
    /// Those that were set on the node with this control file.
    pub fn beside(control: &Path) -> Self {
        let bytes = fs::read(with_suffix(control, ".limits.json")).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }
}

/// The limits now.
pub(crate) fn read() -> Limits {
    match state::control_file() {
        Some(control) => Limits::beside(control),
        None => OWN.lock().unwrap_or_else(PoisonError::into_inner).clone(),
    }
}

/// Changes the limits; two processes that do so at once don't lose each other's.
pub(crate) fn change(change: impl FnOnce(&mut Limits)) -> io::Result<()> {
    let Some(control) = state::control_file() else {
        change(&mut OWN.lock().unwrap_or_else(PoisonError::into_inner));
        return Ok(());
    };
    let lock = File::create(with_suffix(control, ".limits.lock"))?;
    lock.lock()?;
    let mut limits = Limits::beside(control);
    change(&mut limits);
    let fresh = with_suffix(control, ".limits.new");
    fs::write(&fresh, serde_json::to_vec(&limits)?)?;
    fs::rename(fresh, with_suffix(control, ".limits.json"))
}

fn with_suffix(control: &Path, suffix: &str) -> PathBuf {
    let mut path = OsString::from(control);
    path.push(suffix);
    path.into()
}
