//! The files on the node: a directory for each claim, with one file for each of its requests.
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use owned_dir::{Access, Dir, Error, Watcher};

use super::{component, is_about};
use crate::claim::{ClaimUid, RequestName};

const SUFFIX: &str = ".json";
/// 32 devices, as many as a claim can have, stay below.
const LARGEST: u64 = 1 << 20;

/// Files of claims, below one directory that only this driver writes and that container runtimes mount from.
#[derive(Debug)]
pub struct Files {
    dir: Dir,
}

impl Files {
    /// Opens the directory, and makes it if need be; one that others may write is refused.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Ok(Self { dir: Dir::open(path)? })
    }

    /// With somebody who is told of each step in debug builds.
    #[must_use]
    pub fn watched(self, watcher: Watcher) -> Self {
        Self { dir: self.dir.watched(watcher) }
    }

    /// Writes the file of a request whole; one that says the same already is left as it is.
    pub fn write(&self, uid: &ClaimUid, request: &RequestName, bytes: &[u8]) -> Result<(), Error> {
        let (dir, name) = (self.dir.below(uid.as_str())?, file_name(request));
        // What can't be read, such as a link, is replaced.
        if dir.read(&name, LARGEST).ok().flatten().is_some_and(|there| there == bytes) {
            return Ok(());
        }
        dir.write(&name, bytes, Access::Public)
    }

    /// Whether the file of a request is there, and about it.
    pub fn has(&self, uid: &ClaimUid, request: &RequestName) -> bool {
        let read =
            || self.dir.existing_below(uid.as_str())?.map_or(Ok(None), |dir| dir.read(&file_name(request), LARGEST));
        read().ok().flatten().is_some_and(|bytes| is_about(&bytes, uid, request))
    }

    /// Removes all of a claim; one without files counts as removed.
    pub fn remove(&self, uid: &ClaimUid) -> Result<(), Error> {
        self.dir.remove_below(uid.as_str())
    }

    /// The claims that have files, or leftovers of them.
    pub fn claims(&self) -> Result<BTreeSet<ClaimUid>, Error> {
        Ok(self.dir.names()?.into_iter().filter_map(|name| ClaimUid::new(name).ok()).collect())
    }

    /// Where the file of a request is.
    pub fn path(&self, uid: &ClaimUid, request: &RequestName) -> PathBuf {
        self.dir.path().join(uid.as_str()).join(file_name(request))
    }
}

fn file_name(request: &RequestName) -> String {
    format!("{}{SUFFIX}", component(request))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;
    use crate::{claim::ClaimRef, metadata::Subject};

    fn uid() -> ClaimUid {
        ClaimUid::new("u1").unwrap()
    }

    fn document(request: &RequestName) -> Vec<u8> {
        let claim = ClaimRef::new("team", "training", "u1").unwrap();
        Subject { driver: "gpu.example.com", claim: &claim, pod_claim: None, request }.document(vec![]).unwrap()
    }

    #[test]
    fn a_claims_files_are_for_all_to_read_and_go_together() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::open(&dir.path().join("metadata")).unwrap();
        let (one, two) = (RequestName::parse("one"), RequestName::parse("two/big"));
        files.write(&uid(), &one, &document(&one)).unwrap();
        files.write(&uid(), &two, &document(&two)).unwrap();
        assert_eq!(files.path(&uid(), &two), dir.path().join("metadata/u1/two.json"));
        assert_eq!(files.path(&uid(), &two).metadata().unwrap().permissions().mode() & 0o777, 0o644);
        assert!(files.has(&uid(), &one) && files.has(&uid(), &two) && !files.has(&uid(), &RequestName::parse("two")));
        assert_eq!(files.claims().unwrap(), BTreeSet::from([uid()]));
        files.remove(&uid()).unwrap();
        files.remove(&uid()).unwrap();
        assert!(files.claims().unwrap().is_empty() && !files.has(&uid(), &one));
    }

    #[test]
    fn one_that_was_damaged_is_not_there_and_is_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::open(dir.path()).unwrap();
        let request = RequestName::parse("gpu");
        files.write(&uid(), &request, &document(&request)).unwrap();
        let path = files.path(&uid(), &request);
        let victim = dir.path().join("victim");
        std::fs::write(&victim, document(&request)).unwrap();
        for damage in [&|| std::fs::write(&path, "{").unwrap(), &|| symlink(&victim, &path).unwrap()] as [&dyn Fn(); 2]
        {
            std::fs::remove_file(&path).unwrap();
            damage();
            assert!(!files.has(&uid(), &request));
            files.write(&uid(), &request, &document(&request)).unwrap();
            assert!(files.has(&uid(), &request));
        }
    }

    #[test]
    fn a_request_whose_name_the_api_server_would_refuse_leads_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::open(dir.path()).unwrap();
        for odd in ["..", ".", "", "A", "\0"] {
            assert_eq!(
                files.path(&uid(), &RequestName::parse(odd)).parent(),
                Some(dir.path().join("u1").as_path()),
                "{odd}"
            );
        }
    }
}
