//! Removes files and directories that are the driver's own; no link is followed.
use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use owned_dir::Dir;

use super::Error;

/// How.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clear {
    /// Only says what would go.
    pub(super) dry: bool,
}

/// The names in a directory; none where it isn't there.
pub(super) fn names(dir: &Path) -> Result<Vec<String>, Error> {
    let Some(dir) = Dir::existing(dir)? else { return Ok(Vec::new()) };
    let mut names = dir.names()?;
    names.sort();
    Ok(names)
}

impl Clear {
    /// The files of a directory that others use too.
    pub(super) fn files(self, dir: &Path, is_ours: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>, Error> {
        let mut gone = Vec::new();
        for name in names(dir)?.into_iter().filter(|name| is_ours(name)) {
            let path = dir.join(name);
            self.removed(&path, |path| fs::remove_file(path))?;
            gone.push(path);
        }
        Ok(gone)
    }

    /// A directory of the driver's alone, with all that is below.
    pub(super) fn tree(self, dir: &Path) -> Result<Option<PathBuf>, Error> {
        // A link, or one that others may write, is none that the driver made.
        let Some(_) = Dir::existing(dir)? else { return Ok(None) };
        self.removed(dir, |dir| fs::remove_dir_all(dir))?;
        Ok(Some(dir.to_owned()))
    }

    /// The same, and the directory that it is in, which drivers of other names may share.
    pub(super) fn tree_and_parent(self, dir: &Path) -> Result<Vec<PathBuf>, Error> {
        let mut gone: Vec<PathBuf> = self.tree(dir)?.into_iter().collect();
        let Some(parent) = dir.parent() else { return Ok(gone) };
        let others = names(parent)?.into_iter().filter(|name| dir.file_name() != Some(name.as_ref())).count();
        if others == 0 && Dir::existing(parent)?.is_some() {
            self.removed(parent, |parent| match fs::remove_dir(parent) {
                // Of a mount only the host's side can go.
                Err(error) if error.kind() == ErrorKind::ResourceBusy => Ok(()),
                removed => removed,
            })?;
            gone.push(parent.to_owned());
        }
        Ok(gone)
    }

    fn removed(self, path: &Path, remove: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), Error> {
        if self.dry {
            return Ok(());
        }
        match remove(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(|source| Error::Remove { path: path.to_owned(), source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    const CLEAR: Clear = Clear { dry: false };

    #[test]
    fn links_go_and_what_they_lead_to_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, victim) = (dir.path().join("ours"), dir.path().join("victim"));
        for made in [ours.join("deep"), victim.clone()] {
            fs::create_dir_all(made).unwrap();
        }
        fs::write(victim.join("precious"), "").unwrap();
        symlink(&victim, ours.join("deep/link")).unwrap();
        symlink(victim.join("precious"), ours.join("file")).unwrap();
        assert_eq!(CLEAR.tree(&ours).unwrap(), Some(ours.clone()));
        assert!(!ours.exists() && victim.join("precious").exists());
        symlink(&victim, &ours).unwrap();
        assert!(CLEAR.tree(&ours).is_err() && CLEAR.files(&ours, |_| true).is_err());
        assert!(victim.join("precious").exists());
    }

    #[test]
    fn a_directory_that_others_may_write_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let shared = dir.path().join("shared");
        fs::create_dir(&shared).unwrap();
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(CLEAR.tree(&shared).unwrap_err().to_string().contains("nobody else may write"));
        assert!(shared.exists());
    }

    #[test]
    fn a_shared_parent_goes_with_the_last_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let (parent, one, other) = (dir.path().join("p"), dir.path().join("p/one"), dir.path().join("p/other"));
        for made in [&one, &other] {
            fs::create_dir_all(made).unwrap();
        }
        assert_eq!(Clear { dry: true }.tree_and_parent(&one).unwrap(), std::slice::from_ref(&one));
        assert!(one.exists());
        assert_eq!(CLEAR.tree_and_parent(&one).unwrap(), [one]);
        assert_eq!(CLEAR.tree_and_parent(&other).unwrap(), [other, parent.clone()]);
        assert!(!parent.exists() && CLEAR.tree_and_parent(&parent.join("x")).unwrap().is_empty());
    }
}
