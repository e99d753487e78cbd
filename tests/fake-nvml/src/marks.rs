//! Sets of GPUs in files beside the control file, so that all of a node's processes share them.
use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use crate::state;

/// UUIDs of the GPUs in persistence mode, which stay in use though nobody uses them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Persistence(pub BTreeSet<String>);

/// UUIDs of the GPUs that another kernel driver than NVIDIA's has; they are removed as well.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Away(pub BTreeSet<String>);

/// For a process without a control file.
static OWN: Mutex<Persistence> = Mutex::new(Persistence(BTreeSet::new()));

impl Persistence {
    const ENDING: &str = ".persistence";

    /// Of the node with this control file.
    pub fn beside(control: &Path) -> Self {
        Self(read(&with_ending(control, Self::ENDING)))
    }

    /// Makes it so.
    pub fn keep(&self, control: &Path) -> io::Result<()> {
        write(control, Self::ENDING, &self.0)
    }
}

impl Away {
    const ENDING: &str = ".away";

    /// Of the node with this control file.
    pub fn beside(control: &Path) -> Self {
        Self::read(&Self::file(control))
    }

    /// Where that is.
    pub(crate) fn file(control: &Path) -> PathBuf {
        with_ending(control, Self::ENDING)
    }

    /// What a file says.
    pub(crate) fn read(file: &Path) -> Self {
        Self(read(file))
    }

    /// Makes it so.
    pub fn keep(&self, control: &Path) -> io::Result<()> {
        write(control, Self::ENDING, &self.0)
    }
}

/// Whether a GPU is in persistence mode.
pub(crate) fn persists(uuid: &str) -> bool {
    match state::control_file() {
        Some(control) => Persistence::beside(control).0.contains(uuid),
        None => OWN.lock().unwrap_or_else(PoisonError::into_inner).0.contains(uuid),
    }
}

/// Has it be in it, or not.
pub(crate) fn set_persists(uuid: &str, on: bool) -> io::Result<()> {
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
    let mut persistence = Persistence::beside(control);
    change(&mut persistence);
    persistence.keep(control)
}

fn read(file: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().map(ToOwned::to_owned).collect()
}

fn write(control: &Path, ending: &str, uuids: &BTreeSet<String>) -> io::Result<()> {
    let (file, fresh) = (with_ending(control, ending), with_ending(control, &format!("{ending}.new")));
    fs::write(&fresh, uuids.iter().flat_map(|uuid| [uuid, "\n"]).collect::<String>())?;
    fs::rename(fresh, file)
}

fn with_ending(control: &Path, ending: &str) -> PathBuf {
    let mut path = OsString::from(control);
    path.push(ending);
    path.into()
}
