//! What an image can do, and what of it leaves it.
use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::PathBuf,
};

use rustix::fs::{makedev, mknodat};

use super::*;

/// A container's root, and beside it what stands for the host.
struct Trees {
    dir: tempfile::TempDir,
    root: Rootfs,
}

impl Trees {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("root/etc")).unwrap();
        fs::create_dir_all(dir.path().join("host/etc")).unwrap();
        fs::write(dir.path().join("host/etc/secret"), "secret").unwrap();
        let root = Rootfs::open(&dir.path().join("root")).unwrap();
        Self { dir, root }
    }

    fn inside(&self, path: &str) -> PathBuf {
        self.dir.path().join("root").join(path)
    }

    fn host(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut all = Vec::new();
        let mut dirs = vec![self.dir.path().join("host")];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap().flatten() {
                let path = entry.path();
                if path.is_dir() { dirs.push(path) } else { all.push((path.clone(), fs::read(path).unwrap())) }
            }
        }
        all
    }
}

#[test]
fn the_hosts_root_is_no_containers() {
    assert!(matches!(Rootfs::open(Path::new("/")), Err(Error::Host { .. })));
    let dir = tempfile::tempdir().unwrap();
    symlink("/", dir.path().join("rootfs")).unwrap();
    assert!(matches!(Rootfs::open(&dir.path().join("rootfs")), Err(Error::Host { .. })));
}

#[test]
fn a_file_takes_the_place_of_what_was_there_with_directories_as_needed() {
    let trees = Trees::new();
    trees.root.write("/etc/ld.so.cache", b"one").unwrap();
    trees.root.write("/etc/ld.so.cache", b"two").unwrap();
    trees.root.write("/a/b/c/d", b"deep").unwrap();
    assert_eq!(fs::read(trees.inside("etc/ld.so.cache")).unwrap(), b"two");
    assert_eq!(fs::read(trees.inside("a/b/c/d")).unwrap(), b"deep");
    assert_eq!(fs::metadata(trees.inside("a/b/c/d")).unwrap().permissions().mode() & 0o777, 0o644);
    assert_eq!(fs::read_dir(trees.inside("etc")).unwrap().count(), 1, "nothing half-made is left");
}

#[test]
fn links_of_the_image_lead_nowhere_out_of_it() {
    let trees = Trees::new();
    let (before, host) = (trees.host(), trees.dir.path().join("host"));
    let up = "../".repeat(20);
    for (name, target) in [
        ("absolute", host.display().to_string()),
        ("upwards", format!("{up}{}", host.display())),
        ("root", "/proc/self/root".to_owned()),
        ("cwd", "/proc/self/cwd".to_owned()),
    ] {
        symlink(&target, trees.inside(name)).unwrap();
        assert!(trees.root.read(&format!("/{name}/etc/secret"), 100).ok().flatten().is_none(), "{name}");
        let _ = trees.root.write(&format!("/{name}/etc/new"), b"x");
        let _ = trees.root.link(&format!("/{name}/etc/secret"), "elsewhere");
        assert!(trees.root.names(&format!("/{name}/etc")).unwrap_or_default().is_empty(), "{name}");
    }
    symlink(host.join("etc/secret"), trees.inside("etc/ld.so.cache")).unwrap();
    assert_eq!(trees.root.read("/etc/ld.so.cache", 100).unwrap(), None);
    trees.root.write("/etc/ld.so.cache", b"ours").unwrap();
    assert_eq!(fs::read(trees.inside("etc/ld.so.cache")).unwrap(), b"ours");
    assert_eq!(trees.host(), before);
}

#[test]
fn links_within_the_image_are_followed() {
    let trees = Trees::new();
    fs::create_dir_all(trees.inside("usr/lib")).unwrap();
    symlink("/usr/lib", trees.inside("lib")).unwrap();
    trees.root.link("/lib/x.so", "x.so.1").unwrap();
    assert_eq!(fs::read_link(trees.inside("usr/lib/x.so")).unwrap(), Path::new("x.so.1"));
}

#[test]
fn a_link_in_a_circle_is_an_error() {
    let trees = Trees::new();
    symlink("b", trees.inside("a")).unwrap();
    symlink("a", trees.inside("b")).unwrap();
    assert!(trees.root.write("/a/x", b"x").is_err());
    assert!(trees.root.read("/a/x", 1).is_err());
}

#[test]
fn a_fifo_or_a_device_is_not_even_opened() {
    let trees = Trees::new();
    // Opening this character device, if that were tried, would be another error: there is no driver of the number.
    for (kind, device) in [(FileType::Fifo, 0), (FileType::CharacterDevice, makedev(511, 4095))] {
        let cache = trees.inside("etc/ld.so.cache");
        match mknodat(CWD, &cache, kind, Mode::from_raw_mode(0o644), device) {
            Err(Errno::PERM) => continue,
            made => made.unwrap(),
        }
        let error = trees.root.read("/etc/ld.so.cache", 100).unwrap_err();
        assert!(error.to_string().contains("no regular file"), "{error}");
        fs::remove_file(cache).unwrap();
    }
}

#[test]
fn one_directory_by_two_paths_is_known_as_one() {
    let trees = Trees::new();
    fs::create_dir_all(trees.inside("usr/lib/multi")).unwrap();
    symlink("lib/multi", trees.inside("usr/lib64")).unwrap();
    assert!(trees.root.is_one_dir("/usr/lib64", "/usr/lib/multi"));
    assert!(!trees.root.is_one_dir("/usr/lib64", "/usr/lib") && !trees.root.is_one_dir("/a", "/b"));
}

#[test]
fn a_file_without_an_end_is_given_up() {
    let trees = Trees::new();
    fs::write(trees.inside("etc/big"), [0; 101]).unwrap();
    assert!(matches!(trees.root.read("/etc/big", 100), Err(Error::Large { .. })));
    assert_eq!(trees.root.read("/etc/big", 101).unwrap().unwrap().len(), 101);
}

#[test]
fn a_link_takes_the_place_of_anything_but_a_directory() {
    let trees = Trees::new();
    fs::write(trees.inside("etc/file"), "x").unwrap();
    symlink("old", trees.inside("etc/link")).unwrap();
    for name in ["file", "link", "none"] {
        trees.root.link(&format!("/etc/{name}"), "new").unwrap();
        assert_eq!(fs::read_link(trees.inside(&format!("etc/{name}"))).unwrap(), Path::new("new"), "{name}");
    }
    fs::create_dir(trees.inside("etc/dir")).unwrap();
    assert!(matches!(trees.root.link("/etc/dir", "new"), Err(Error::Directory { .. })));
}
