//! Trees laid out as driver roots are in the wild, for tests.
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use super::{Installation, find};
use crate::roots::Roots;

/// The driver's version in them.
pub(crate) const VERSION: &str = "570.1";

/// The smallest library that says its name: ELF64 with the sections null, .dynstr and .dynamic.
fn elf(soname: &str) -> Vec<u8> {
    let strings = [b"\0", soname.as_bytes(), b"\0"].concat();
    let dynamic: Vec<u8> = [14u64, 1, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
    let (strings_at, dynamic_at) = (64, 64 + strings.len().next_multiple_of(8));
    let sections_at = dynamic_at + dynamic.len();
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    file.extend(3u16.to_le_bytes());
    file.extend(62u16.to_le_bytes());
    file.extend(1u32.to_le_bytes());
    for word in [0u64, 0, sections_at as u64] {
        file.extend(word.to_le_bytes());
    }
    file.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 0, 64, 3, 1] {
        file.extend(half.to_le_bytes());
    }
    file.extend(&strings);
    file.resize(dynamic_at, 0);
    file.extend(&dynamic);
    let section = |kind: u32, at: usize, size: usize, link: u32, entry: u64| {
        let mut bytes = Vec::new();
        bytes.extend(0u32.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        for word in [0u64, 0, at as u64, size as u64] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(link.to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
        bytes.extend(entry.to_le_bytes());
        bytes
    };
    file.extend(section(0, 0, 0, 0, 0));
    file.extend(section(3, strings_at, strings.len(), 0, 0));
    file.extend(section(6, dynamic_at, dynamic.len(), 1, 16));
    file
}

/// A root on disk.
pub(crate) struct Tree {
    _dir: tempfile::TempDir,
    pub(crate) root: PathBuf,
}

impl Tree {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap().join("root");
        fs::create_dir_all(&root).unwrap();
        Self { _dir: dir, root }
    }

    pub(crate) fn file(&self, path: &str, bytes: &[u8]) -> &Self {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
        self
    }

    pub(crate) fn library(&self, path: &str, soname: &str) -> &Self {
        self.file(path, &elf(soname))
    }

    pub(crate) fn link(&self, path: &str, target: &str) -> &Self {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
        self
    }

    /// Every path on it, and below a directory of the host's.
    pub(crate) fn roots(&self, on_host: &str) -> Roots {
        let roots = crate::roots::tests::roots(self.root.to_str().unwrap(), on_host);
        Roots { sys: self.root.join("sys"), proc: self.root.join("proc"), ..roots }
    }

    pub(crate) fn find(&self) -> Installation {
        find(&self.roots("/"), VERSION)
    }

    /// Paths below the root, with names.
    pub(crate) fn libraries(&self) -> Vec<(String, Vec<String>)> {
        let below = |path: &Path| path.strip_prefix(&self.root).unwrap().display().to_string();
        self.find().libraries.iter().map(|one| (below(&one.file), one.names.iter().cloned().collect())).collect()
    }
}
