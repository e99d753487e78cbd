//! Spec files in one directory, in the way that runtimes watch it.
//!
//! containerd and CRI-O take up a file that is renamed within the directory; of one that is linked or moved in from
//! elsewhere they see nothing, and one that is written in place they may read half-done.
use std::path::{Path, PathBuf};

use owned_dir::{Access, Dir};

use crate::{Kind, Spec};

/// A larger file is none that this store wrote.
const LARGEST: u64 = 1 << 20;
const SUFFIX: &str = ".json";

/// Why a spec can't be kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory or a file in it.
    #[error(transparent)]
    Dir(#[from] owned_dir::Error),
    /// The id can't be part of a file name.
    #[error("{0:?} can't be part of a CDI file's name")]
    Id(String),
    /// The file is no spec.
    #[error("{} is no CDI spec", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// A directory of CDI specs.
#[derive(Debug)]
pub struct Store {
    dir: Dir,
}

/// A spec's place, without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// What it was written as.
    pub id: String,
    /// The file.
    pub path: PathBuf,
}

impl Store {
    /// Opens the directory, and makes it if need be; one that others may write is refused.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        Ok(Self::within(Dir::open(dir)?))
    }

    /// A store in a directory that is open already.
    pub fn within(dir: Dir) -> Self {
        Self { dir }
    }

    /// Writes a spec as `<vendor>-<class>_<id>.json`; a file that says the same already is left as it is.
    pub fn write(&self, id: &str, spec: &Spec) -> Result<(), StoreError> {
        let name = file_name(&spec.kind, id)?;
        let content = |source| StoreError::Content { path: self.dir.path().join(&name), source };
        let mut bytes = serde_json::to_vec(spec).map_err(content)?;
        bytes.push(b'\n');
        // What can't be read, such as a link, is replaced.
        if self.dir.read(&name, LARGEST).ok().flatten().is_some_and(|there| there == bytes) {
            return Ok(());
        }
        Ok(self.dir.write(&name, &bytes, Access::Public)?)
    }

    /// A spec as it is in the directory; `None` if it isn't.
    pub fn read(&self, kind: &Kind, id: &str) -> Result<Option<Spec>, StoreError> {
        let name = file_name(kind, id)?;
        let Some(bytes) = self.dir.read(&name, LARGEST)? else {
            return Ok(None);
        };
        let content = |source| StoreError::Content { path: self.dir.path().join(&name), source };
        serde_json::from_slice(&bytes).map(Some).map_err(content)
    }

    /// Whether a spec is in the directory, whatever it says.
    pub fn has(&self, kind: &Kind, id: &str) -> Result<bool, StoreError> {
        Ok(self.dir.open_file(&file_name(kind, id)?)?.is_some())
    }

    /// Removes a spec; one that isn't there counts as removed.
    pub fn remove(&self, kind: &Kind, id: &str) -> Result<(), StoreError> {
        Ok(self.dir.remove(&file_name(kind, id)?)?)
    }

    /// All specs of one kind, unfinished ones included, in no order.
    pub fn list(&self, kind: &Kind) -> Result<Vec<Stored>, StoreError> {
        let prefix = prefix(kind);
        let ours = |name: String| {
            let whole = owned_dir::unfinished(&name).unwrap_or(&name);
            let id = whole.strip_prefix(&prefix)?.strip_suffix(SUFFIX)?;
            Some(Stored { id: id.to_owned(), path: self.dir.path().join(&name) })
        };
        Ok(self.dir.names()?.into_iter().filter_map(ours).collect())
    }
}

fn prefix(kind: &Kind) -> String {
    format!("{}-{}_", kind.vendor(), kind.class())
}

fn file_name(kind: &Kind, id: &str) -> Result<String, StoreError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
    if id.is_empty() || id.len() > 128 || !id.bytes().all(plain) {
        return Err(StoreError::Id(id.to_owned()));
    }
    Ok(format!("{}{id}{SUFFIX}", prefix(kind)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use crate::{ContainerEdits, Device, DeviceName};

    use super::*;

    fn kind() -> Kind {
        Kind::new("gpu.example.com", "claim").unwrap()
    }

    fn spec(device: &str) -> Spec {
        let env = vec!["A=b".to_owned()];
        let container_edits = ContainerEdits { env, ..ContainerEdits::default() };
        let device = Device { name: DeviceName::new(device).unwrap(), container_edits };
        Spec::new(kind(), vec![device], ContainerEdits::default())
    }

    #[test]
    fn a_spec_is_written_read_listed_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("cdi")).unwrap();
        store.write("u1", &spec("a")).unwrap();
        assert_eq!(store.read(&kind(), "u1").unwrap(), Some(spec("a")));
        let listed = store.list(&kind()).unwrap();
        assert_eq!(listed[0].id, "u1");
        assert_eq!(listed[0].path, dir.path().join("cdi/gpu.example.com-claim_u1.json"));
        assert_eq!(listed[0].path.metadata().unwrap().mode() & 0o777, 0o644);
        store.remove(&kind(), "u1").unwrap();
        store.remove(&kind(), "u1").unwrap();
        assert_eq!(store.read(&kind(), "u1").unwrap(), None);
    }

    #[test]
    fn the_same_spec_again_leaves_the_file_alone() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.write("u1", &spec("a")).unwrap();
        let inode = |store: &Store| store.list(&kind()).unwrap()[0].path.metadata().unwrap().ino();
        let before = inode(&store);
        store.write("u1", &spec("a")).unwrap();
        assert_eq!(inode(&store), before);
        store.write("u1", &spec("b")).unwrap();
        assert_ne!(inode(&store), before);
    }

    #[test]
    fn a_link_in_the_specs_place_is_replaced_and_its_target_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("cdi")).unwrap();
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "precious").unwrap();
        symlink(&victim, dir.path().join("cdi/gpu.example.com-claim_u1.json")).unwrap();
        assert!(store.read(&kind(), "u1").is_err());
        store.write("u1", &spec("a")).unwrap();
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
        assert_eq!(store.read(&kind(), "u1").unwrap(), Some(spec("a")));
    }

    #[test]
    fn files_of_other_kinds_are_not_ours_and_unfinished_ones_are() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        for name in ["nvidia.yaml", "gpu.example.com-gpu_u1.json", ".gpu.example.com-claim_u2.json.tmp"] {
            std::fs::write(dir.path().join(name), "{}").unwrap();
        }
        let ids: Vec<String> = store.list(&kind()).unwrap().into_iter().map(|stored| stored.id).collect();
        assert_eq!(ids, ["u2"]);
        store.remove(&kind(), "u2").unwrap();
        assert!(store.list(&kind()).unwrap().is_empty());
    }

    #[test]
    fn an_id_that_is_a_path_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        for id in ["", "../x", "a/b", "a\0b", &"a".repeat(129)] {
            assert!(matches!(store.write(id, &spec("a")), Err(StoreError::Id(_))), "{id:?}");
        }
    }

    #[test]
    fn a_damaged_spec_is_an_error_that_names_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.write("u1", &spec("a")).unwrap();
        std::fs::write(dir.path().join("gpu.example.com-claim_u1.json"), "{\"cdiVersion\":").unwrap();
        assert!(store.read(&kind(), "u1").unwrap_err().to_string().contains("gpu.example.com-claim_u1.json"));
    }
}
