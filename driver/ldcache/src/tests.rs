//! Against caches that `ldconfig` wrote (glibc 2.36, `-c new` and `-c compat`), and against anything at all.
use proptest::prelude::*;

use super::*;

const NEW: &[u8] = include_bytes!("../fixtures/new.cache");
/// With the older block before it, as glibc up to 2.31 writes.
const COMPAT: &[u8] = include_bytes!("../fixtures/compat.cache");
const X: Machine = Machine::X86_64;

fn library(name: &str, path: &str) -> Library {
    Library { name: name.into(), path: path.into() }
}

fn names(cache: &[u8]) -> Vec<(String, String, bool)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let cache = Cache::read(cache).unwrap();
    cache.entries.iter().map(|entry| (text(entry.name), text(entry.path), entry.hwcap != 0)).collect()
}

/// What `search_cache` of glibc comes to: the first of those that a binary search takes for equal, for this machine.
fn search<'a>(cache: &'a Cache<'a>, name: &[u8]) -> Option<&'a read::Entry<'a>> {
    let first = cache.entries.partition_point(|entry| order::compare(entry.name, name, X).is_gt());
    let equal = cache.entries[first..].iter().take_while(|entry| order::compare(entry.name, name, X).is_eq());
    equal.into_iter().find(|entry| entry.flags == X.flags() && entry.hwcap == 0)
}

#[test]
fn a_library_comes_to_those_that_are_there() {
    for cache in [NEW, COMPAT] {
        let merged = merge(Some(cache), &[library("libnvidia-ml.so.1", "/usr/lib64/libnvidia-ml.so.1")], X).unwrap();
        let path = |name: &str| find(&merged, name, X).unwrap();
        assert_eq!(path("libnvidia-ml.so.1").as_deref(), Some("/usr/lib64/libnvidia-ml.so.1"));
        assert_eq!(path("libalpha.so.10").as_deref(), Some("/lib/libalpha.so.10"));
        assert_eq!(names(&merged).len(), names(cache).len() + 1);
    }
}

#[test]
fn one_of_the_same_name_gives_way() {
    let merged = merge(Some(NEW), &[library("libcuda.so.1", "/host/libcuda.so.1")], X).unwrap();
    let found: Vec<_> = names(&merged).into_iter().filter(|(name, _, _)| name == "libcuda.so.1").collect();
    assert_eq!(found, [("libcuda.so.1".to_owned(), "/host/libcuda.so.1".to_owned(), false)]);
}

#[test]
fn those_of_another_machine_stay() {
    let merged = merge(Some(NEW), &[library("libcuda.so.1", "/arm/libcuda.so.1")], Machine::Aarch64).unwrap();
    assert_eq!(find(&merged, "libcuda.so.1", X).unwrap().as_deref(), Some("/lib/libcuda.so.1"));
    assert_eq!(find(&merged, "libcuda.so.1", Machine::Aarch64).unwrap().as_deref(), Some("/arm/libcuda.so.1"));
}

#[test]
fn libraries_for_better_hardware_keep_their_subdirectory() {
    for cache in [NEW, COMPAT] {
        let merged = merge(Some(cache), &[library("libzeta.so.1", "/z")], X).unwrap();
        let cache = Cache::read(&merged).unwrap();
        assert_eq!(cache.subdirectories, [b"x86-64-v2"]);
        let better = names(&merged).into_iter().find(|(_, _, better)| *better).unwrap();
        assert_eq!(better.1, "/lib/glibc-hwcaps/x86-64-v2/libbeta.so.2.0.0");
    }
}

#[test]
fn without_a_cache_there_is_one_of_ours_alone() {
    let merged = merge(None, &[library("b.so.1", "/b"), library("a.so.1", "/a")], X).unwrap();
    assert_eq!(names(&merged).iter().map(|(name, _, _)| name.as_str()).collect::<Vec<_>>(), ["b.so.1", "a.so.1"]);
}

#[test]
fn ldconfigs_own_order_is_ours() {
    let merged = merge(Some(NEW), &[], X).unwrap();
    assert_eq!(names(&merged), names(NEW));
    let order: Vec<_> = names(NEW).into_iter().map(|(name, _, _)| name).collect();
    assert_eq!(order[3..], ["libalpha.so.10", "libalpha.so.9", "libalpha.so.1"]);
}

#[test]
fn a_cache_that_cannot_be_read_whole_is_left_alone() {
    for length in 0..NEW.len() {
        assert!(merge(Some(&NEW[..length]), &[], X).is_err(), "{length} bytes of it");
    }
    assert_eq!(merge(Some(&vec![0; LARGEST + 1]), &[], X), Err(Error::Large));
    let mut big_endian = NEW.to_vec();
    big_endian[28] = 3;
    assert_eq!(merge(Some(&big_endian), &[], X), Err(Error::Format));
    let mut many = NEW.to_vec();
    many[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(merge(Some(&many), &[], X), Err(Error::Damaged(_))));
}

fn libraries() -> impl Strategy<Value = Vec<Library>> {
    // The loader takes `.01` and `.1` for the same, so there are no leading zeros.
    let name = prop_oneof!["lib[a-c]{1,2}\\.so\\.[1-9][0-9]{0,2}(\\.[1-9][0-9]?)?", "[a-c.]{1,4}[1-9]{0,3}[a-c.]{0,2}"];
    prop::collection::btree_map(name, "/[a-z]{1,8}", 0..40)
        .prop_map(|all| all.into_iter().map(|(name, path)| Library { name, path }).collect())
}

proptest! {
    #[test]
    fn whatever_is_merged_the_loaders_search_finds_it(first in libraries(), second in libraries()) {
        let merged = merge(Some(NEW), &first, X).unwrap();
        let merged = merge(Some(&merged), &second, X).unwrap();
        let cache = Cache::read(&merged).unwrap();
        for library in &second {
            let found = search(&cache, library.name.as_bytes()).unwrap();
            prop_assert_eq!(found.path, library.path.as_bytes());
        }
        for library in first.iter().filter(|one| second.iter().all(|other| other.name != one.name)) {
            prop_assert_eq!(search(&cache, library.name.as_bytes()).unwrap().path, library.path.as_bytes());
        }
    }

    #[test]
    fn merging_again_changes_nothing(all in libraries()) {
        let once = merge(Some(COMPAT), &all, X).unwrap();
        prop_assert_eq!(merge(Some(&once), &all, X).unwrap(), once);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = merge(Some(&bytes), &[], X);
    }

    #[test]
    fn a_damaged_cache_is_read_or_refused(at in 0..NEW.len(), to: u8, compat: bool) {
        let mut bytes = if compat { COMPAT.to_vec() } else { NEW.to_vec() };
        bytes[at] = to;
        if let Ok(merged) = merge(Some(&bytes), &[library("x.so.1", "/x")], X) {
            prop_assert_eq!(find(&merged, "x.so.1", X).unwrap(), Some("/x".to_owned()));
        }
    }
}
