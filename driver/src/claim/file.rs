//! One record's file: its name, and what is read of it only if nobody but this driver can have written it.
use std::{
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
};

use dra_plugin::ClaimUid;
use owned_dir::Dir;

use super::record::{self, Glimpse, Record};

const SUFFIX: &str = ".json";

/// Why a file is no record, and what it shows all the same.
#[derive(Debug)]
pub(super) struct Bad {
    pub(super) reason: String,
    pub(super) glimpse: Glimpse,
}

/// A claim's record, from its file; `None` if there is none.
pub(super) fn read(dir: &Dir, name: &str, uid: &ClaimUid) -> Result<Option<Record>, Box<Bad>> {
    let unread = |reason: String| Box::new(Bad { reason, glimpse: Glimpse::default() });
    let Some(file) = dir.open_file(name).map_err(|error| unread(error.to_string()))? else { return Ok(None) };
    let read = || -> io::Result<(Vec<u8>, std::fs::Metadata)> {
        let mut bytes = Vec::new();
        (&file).take(record::LARGEST + 1).read_to_end(&mut bytes)?;
        Ok((bytes, file.metadata()?))
    };
    let (bytes, meta) = read().map_err(|error| unread(error.to_string()))?;
    if bytes.len() as u64 > record::LARGEST {
        return Err(unread(format!("it is larger than {} bytes", record::LARGEST)));
    }
    let (owner, mode) = (meta.uid(), meta.mode() & 0o7777);
    if owner != rustix::process::geteuid().as_raw() || mode & 0o022 != 0 {
        let glimpse = Glimpse { is_intact: false, ..glimpse(&bytes, uid) };
        let reason = format!("it belongs to user {owner} with mode {mode:o}: this driver didn't write it so");
        return Err(Box::new(Bad { reason, glimpse }));
    }
    match Record::decode(&bytes) {
        Ok(record) if record.claim.uid() == uid => Ok(Some(record)),
        Ok(record) => Err(unread(format!("it is the record of another claim, with UID {}", record.claim.uid()))),
        Err(error) => Err(Box::new(Bad { reason: crate::report(&error), glimpse: glimpse(&bytes, uid) })),
    }
}

/// What a claim's file shows. If it names another claim, nothing in it is about this one.
fn glimpse(bytes: &[u8], uid: &ClaimUid) -> Glimpse {
    let glimpse = Glimpse::of(bytes);
    let is_other = glimpse.whose.as_ref().is_some_and(|claim| claim.uid() != uid);
    if is_other { Glimpse::default() } else { glimpse }
}

/// The claim whose file it is by its name.
pub(super) fn uid_of(name: &str) -> Option<ClaimUid> {
    ClaimUid::new(name.strip_suffix(SUFFIX)?).ok()
}

/// The name of a claim's file.
pub(super) fn file_name(uid: &ClaimUid) -> String {
    format!("{}{SUFFIX}", uid.as_str())
}

#[cfg(test)]
mod tests {
    use owned_dir::Access;

    use super::*;
    use crate::claim::testing;

    fn read_as(uid: &str, bytes: &[u8]) -> Result<Option<Record>, Box<Bad>> {
        let parent = tempfile::tempdir().unwrap();
        let dir = Dir::open(&parent.path().join("claims")).unwrap();
        let uid = ClaimUid::new(uid).unwrap();
        dir.write(&file_name(&uid), bytes, Access::Private).unwrap();
        read(&dir, &file_name(&uid), &uid)
    }

    #[test]
    fn a_file_under_another_claims_name_says_nothing_about_that_claim() {
        // Both are of the claim u1, and one of them by a later version.
        for bytes in [testing::record("u1", &["gpu-0"]).encode().unwrap(), testing::of_schema(3)] {
            let bad = read_as("u2", &bytes).err().unwrap();
            assert_eq!(bad.glimpse, Glimpse::default(), "{}", bad.reason);
        }
        assert!(read_as("u1", &testing::of_schema(3)).err().unwrap().glimpse.is_intact);
    }

    #[test]
    fn an_empty_half_or_huge_file_is_told_apart_from_none() {
        let good = testing::record("u1", &["gpu-0"]).encode().unwrap();
        for bytes in [&b""[..], &good[..good.len() / 2], &vec![b' '; 300 * 1024]] {
            assert!(read_as("u1", bytes).is_err());
        }
        assert!(read_as("u1", &good).unwrap().is_some());
    }
}
