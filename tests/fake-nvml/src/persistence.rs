//! GPUs in persistence mode, in a file beside the control file so that all of a node's processes share them.
use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use crate::state;

/// UUIDs of the GPUs that stay in use though nobody uses them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Persistence(pub BTreeSet<String>);

/// For a process without a control file.
static OWN: Mutex<Persistence> = Mutex::new(Persistence(BTreeSet::new()));

impl Persistence {
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

pub(crate) fn is_on(uuid: &str) -> bool {
    match state::control_file() {
        Some(control) => Persistence::beside(&control).0.contains(uuid),
        None => OWN.lock().unwrap_or_else(PoisonError::into_inner).0.contains(uuid),
    }
}

pub(crate) fn set(uuid: &str, on: bool) -> io::Result<()> {
    let change = |persistence: &mut Persistence| {
        if on {
            persistence.0.insert(uuid.to_owned())
        } else {
            persistence.0.remove(uuid)
        };
    };
    let Some(control) = state::control_file() else {
        change(&mut OWN.lock().unwrap_or_else(PoisonError::into_inner));
        return Ok(());
    };
    let mut persistence = Persistence::beside(&control);
    change(&mut persistence);
    persistence.keep(&control)
}

fn file(control: &Path) -> PathBuf {
    let mut path = OsString::from(control);
    path.push(".persistence");
    path.into()
}
