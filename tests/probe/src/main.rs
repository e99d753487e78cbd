//! Tries, from within a container, to open every device node that it has and every number that it is given, and prints what
//! the kernel answered.
//!
//! ```text
//! isolation-probe 195:0-255 226:0-15
//! {"nodes": [["/dev/null", "c", 1, 3, 0, 0], …], "forged": [[195, 0, 0, 1, 1], …]}
//! ```
//! A node is its path, its kind, its numbers, and the errors of opening it to read and to write; a forged one is its numbers,
//! the error of making it, and the same two. An error is its number in the kernel (0 for none), so that `EPERM`, which is the
//! device cgroup's answer, can be told from `ENXIO`, which is that of a kernel without such a driver.
#![forbid(unsafe_code)]

use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, major, makedev, minor, mknodat, open},
    io::Errno,
};
use serde_json::{Value, json};

/// In the image's own file system, where nodes aren't refused by a mount's `nodev`.
const FORGED: &str = "/tmp/isolation-probe";
/// File systems whose files are none of the container's.
const KERNEL: [&str; 2] = ["/proc", "/sys"];

fn main() -> ExitCode {
    let mut numbers = Vec::new();
    for word in std::env::args().skip(1) {
        let Some(range) = range(&word) else {
            eprintln!("isolation-probe: {word} is no MAJOR:MINOR or MAJOR:FIRST-LAST");
            return ExitCode::FAILURE;
        };
        numbers.extend(range);
    }
    let mut nodes = Vec::new();
    find(Path::new("/"), &mut nodes);
    let forged: Vec<Value> = numbers.into_iter().map(|(major, minor)| forge(major, minor)).collect();
    println!("{}", json!({"nodes": nodes, "forged": forged}));
    ExitCode::SUCCESS
}

fn range(word: &str) -> Option<Vec<(u32, u32)>> {
    let (major, minors) = word.split_once(':')?;
    let (first, last) = minors.split_once('-').unwrap_or((minors, minors));
    let (major, first, last) = (major.parse().ok()?, first.parse().ok()?, last.parse::<u32>().ok()?);
    Some((first..=last).map(|minor| (major, minor)).collect())
}

/// All device nodes below a directory, on whatever is mounted there.
fn find(dir: &Path, nodes: &mut Vec<Value>) {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let Ok(there) = fs::symlink_metadata(&path) else { continue };
        let kind = there.file_type();
        if kind.is_dir() && !KERNEL.iter().any(|kernel| path == Path::new(kernel)) {
            find(&path, nodes);
        } else if kind.is_char_device() || kind.is_block_device() {
            let (letter, device) = (if kind.is_char_device() { "c" } else { "b" }, there.rdev());
            let [read, write] = opened(&path);
            nodes.push(json!([path.to_string_lossy(), letter, major(device), minor(device), read, write]));
        }
    }
}

fn forge(major: u32, minor: u32) -> Value {
    // Left over from a probe that was ended.
    let _ = fs::remove_file(FORGED);
    let made = mknodat(CWD, FORGED, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(major, minor));
    let [read, write] = if made.is_ok() { opened(Path::new(FORGED)) } else { [number(made); 2] };
    let _ = fs::remove_file(FORGED);
    json!([major, minor, number(made), read, write])
}

/// What comes of opening it to read and to write.
fn opened(path: &Path) -> [i32; 2] {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    [OFlags::RDONLY, OFlags::WRONLY].map(|way| number(open(path, way | flags, Mode::empty()).map(drop)))
}

fn number(result: Result<(), Errno>) -> i32 {
    result.err().map_or(0, Errno::raw_os_error)
}
