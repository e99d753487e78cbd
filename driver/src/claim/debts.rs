//! GPUs that still have the time slice of a claim that is gone: written down, so that no restart forgets them.
//!
//! Each has a file of its own, named for it: it comes and goes at once, whichever driver instance writes or removes it, and
//! its name alone says that the GPU is owed something.
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use aliquot_model::GpuUuid;
use owned_dir::{Access, Dir};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::fault::{self, Point};

const SUFFIX: &str = ".json";
/// No reason is longer.
const LARGEST: u64 = 64 << 10;

/// One of them, as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Note {
    /// With another boot the GPU has its own time slice again.
    boot_id: String,
    /// Why it could not be given back.
    reason: String,
}

/// One of them, for whoever only looks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Owed {
    /// Which GPU.
    pub(crate) gpu: GpuUuid,
    /// Why it could not be given back when that was last tried.
    pub(crate) reason: String,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Debts {
    dir: Dir,
    boot_id: String,
    /// What this process knows of; in a full file system nothing else does.
    known: Mutex<BTreeMap<GpuUuid, String>>,
    noted: Notify,
}

impl Debts {
    /// Opens the directory, and removes what is of another boot or was never finished.
    pub(super) fn open(path: &Path, boot_id: String) -> Result<Self, owned_dir::Error> {
        let dir = Dir::open(path)?;
        let mut known = BTreeMap::new();
        for name in dir.names()? {
            let gpu = gpu_of(&name);
            let note = gpu.as_ref().and_then(|_| read(&dir, &name));
            let is_over = note.as_ref().is_some_and(|note| note.boot_id != boot_id);
            if is_over || owned_dir::unfinished(&name).is_some() {
                dir.remove(&name)?;
            } else if let Some(gpu) = gpu {
                // A file that can't be read still says which GPU it is about.
                known.insert(gpu, note.map(|note| note.reason).unwrap_or_default());
            }
        }
        Ok(Self { dir, boot_id, known: Mutex::new(known), noted: Notify::new() })
    }

    /// The GPUs that are owed something, also by what another instance has written down.
    pub(super) fn gpus(&self) -> BTreeSet<GpuUuid> {
        let written = self.dir.names().unwrap_or_default();
        let written: BTreeSet<GpuUuid> = written.iter().filter_map(|name| gpu_of(name)).collect();
        written.into_iter().chain(self.known().keys().cloned()).collect()
    }

    /// Writes one down before its claim's record goes; whether that is news. What can't be written is remembered until this
    /// process ends: a claim must be able to leave a full disk.
    pub(super) fn note(&self, gpu: &GpuUuid, reason: &str) -> bool {
        let is_known = self.known().insert(gpu.clone(), reason.to_owned()).is_some_and(|known| known == reason);
        if is_known && self.is_written(gpu) {
            return false;
        }
        let note = Note { boot_id: self.boot_id.clone(), reason: reason.to_owned() };
        let written = serde_json::to_vec(&note)
            .map_err(|error| error.to_string())
            .and_then(|bytes| {
                self.dir.write(&file_name(gpu), &bytes, Access::Private).map_err(|error| crate::report(&error))
            })
            .and_then(|()| fault::step(Point::DebtNoted).map_err(|error| error.to_string()));
        if let Err(error) = written {
            tracing::warn!(%gpu, error, "that a GPU keeps a time slice can't be written down; a restart forgets it");
        }
        self.noted.notify_one();
        !is_known
    }

    /// Strikes one off, if it is there; whether it was.
    pub(super) fn settle(&self, gpu: &GpuUuid) -> bool {
        let (was_known, was_written) = (self.known().remove(gpu).is_some(), self.is_written(gpu));
        if was_written {
            let removed = self
                .dir
                .remove(&file_name(gpu))
                .map_err(|error| crate::report(&error))
                .and_then(|()| fault::step(Point::DebtSettled).map_err(|error| error.to_string()));
            if let Err(error) = removed {
                tracing::warn!(%gpu, error, "that a GPU has its time slice back can't be written down; it is set again");
            }
        }
        was_known || was_written
    }

    /// Waits until something is written down; at once if something was since the last time.
    pub(super) async fn noted(&self) {
        self.noted.notified().await;
    }

    fn is_written(&self, gpu: &GpuUuid) -> bool {
        self.dir.read(&file_name(gpu), LARGEST).is_ok_and(|bytes| bytes.is_some())
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<GpuUuid, String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is owed in this boot, without changing anything.
pub(crate) fn look(path: &Path, boot_id: &str) -> Result<Vec<Owed>, owned_dir::Error> {
    let Some(dir) = Dir::existing(path)? else { return Ok(Vec::new()) };
    let mut owed = Vec::new();
    for name in dir.names()? {
        let Some(gpu) = gpu_of(&name) else { continue };
        match read(&dir, &name) {
            Some(note) if note.boot_id != boot_id => {}
            note => owed.push(Owed { gpu, reason: note.map(|note| note.reason).unwrap_or_default() }),
        }
    }
    owed.sort();
    Ok(owed)
}

fn read(dir: &Dir, name: &str) -> Option<Note> {
    serde_json::from_slice(&dir.read(name, LARGEST).ok()??).ok()
}

fn gpu_of(name: &str) -> Option<GpuUuid> {
    name.strip_suffix(SUFFIX)?.parse().ok()
}

fn file_name(gpu: &GpuUuid) -> String {
    format!("{}{SUFFIX}", gpu.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu() -> GpuUuid {
        "GPU-1".parse().unwrap()
    }

    fn open(dir: &tempfile::TempDir, boot: &str) -> Debts {
        Debts::open(&dir.path().join("owed"), boot.to_owned()).unwrap()
    }

    fn seen(dir: &tempfile::TempDir) -> Vec<(String, String)> {
        let all = look(&dir.path().join("owed"), "boot-1").unwrap();
        all.into_iter().map(|owed| (owed.gpu.to_string(), owed.reason)).collect()
    }

    #[test]
    fn what_is_owed_outlives_the_process_and_not_the_boot() {
        let dir = tempfile::tempdir().unwrap();
        assert!(open(&dir, "boot-1").note(&gpu(), "it hangs"));
        assert_eq!(open(&dir, "boot-1").gpus(), [gpu()].into());
        assert_eq!(seen(&dir), [("GPU-1".to_owned(), "it hangs".to_owned())]);
        assert!(open(&dir, "boot-2").gpus().is_empty());
        assert!(seen(&dir).is_empty());
    }

    #[test]
    fn a_debt_is_news_once_for_each_reason_and_after_it_was_settled() {
        let dir = tempfile::tempdir().unwrap();
        let debts = open(&dir, "boot-1");
        let told = ["it hangs", "it hangs", "no such GPU"].map(|reason| debts.note(&gpu(), reason));
        assert_eq!(told, [true, false, true]);
        assert!(!open(&dir, "boot-1").note(&gpu(), "no such GPU"), "a restart is no news either");
        assert_eq!((debts.settle(&gpu()), debts.settle(&gpu())), (true, false));
        assert!(seen(&dir).is_empty() && debts.note(&gpu(), "it hangs"));
    }

    #[test]
    fn another_instances_debts_are_seen_and_settled() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (open(&dir, "boot-1"), open(&dir, "boot-1"));
        old.note(&gpu(), "it hangs");
        assert_eq!(new.gpus(), [gpu()].into());
        assert!(new.settle(&gpu()));
        assert!(seen(&dir).is_empty());
    }

    #[test]
    fn a_file_that_is_cut_short_still_names_its_gpu_and_one_half_written_goes() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("owed")).unwrap();
        std::fs::write(dir.path().join("owed/GPU-1.json"), "{").unwrap();
        std::fs::write(dir.path().join("owed/.GPU-2.json.tmp"), "{").unwrap();
        assert_eq!(open(&dir, "boot-1").gpus(), [gpu()].into());
        assert_eq!(std::fs::read_dir(dir.path().join("owed")).unwrap().count(), 1);
        assert_eq!(seen(&dir), [("GPU-1".to_owned(), String::new())]);
    }
}
