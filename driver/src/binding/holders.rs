//! Who has a device open, as far as procfs shows.
use std::{
    fs::{self, Metadata},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use super::trouble::Holder;

/// What is in the name of a node that is looked for: nothing else that a process has open is touched, as it may be on a
/// file system that doesn't answer.
const MARKS: [&str; 3] = ["nvidia", "/dri/", "vfio"];

/// The processes that have any of these nodes open, or another node of the same device.
pub(super) fn of(proc: &Path, nodes: &[PathBuf]) -> Vec<Holder> {
    let wanted: Vec<Metadata> = nodes.iter().filter_map(|node| node.metadata().ok()).collect();
    let processes = fs::read_dir(proc).into_iter().flatten().flatten();
    let mut holders: Vec<Holder> = processes
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let process = entry.path();
            let mut open = fs::read_dir(process.join("fd")).ok()?.flatten();
            open.any(|open| has(&open.path(), &wanted)).then(|| Holder { pid, name: name(&process) })
        })
        .collect();
    holders.sort();
    holders
}

fn has(descriptor: &Path, wanted: &[Metadata]) -> bool {
    let Ok(target) = fs::read_link(descriptor) else { return false };
    let is_marked = target.to_str().is_some_and(|target| MARKS.iter().any(|mark| target.contains(mark)));
    is_marked && fs::metadata(descriptor).is_ok_and(|open| wanted.iter().any(|wanted| is_same(&open, wanted)))
}

/// Nodes of one device are the same, whoever made them where; other files are if they are one.
fn is_same(a: &Metadata, b: &Metadata) -> bool {
    if a.file_type().is_char_device() && b.file_type().is_char_device() {
        return a.rdev() == b.rdev();
    }
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// A program's name, as the kernel cuts it off; it can hold anything, even brackets.
pub(super) fn name(process: &Path) -> String {
    let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
    let name = stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')'));
    name.map_or_else(|| "a process".to_owned(), |(name, _)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_a_node_open_is_found_by_the_file_and_not_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let (node, other) = (dir.path().join("nvidia0"), dir.path().join("other/nvidia0"));
        fs::create_dir(dir.path().join("other")).unwrap();
        fs::write(&node, "").unwrap();
        fs::write(&other, "").unwrap();
        // As a container would know it.
        fs::hard_link(&node, dir.path().join("other/nvidia7")).unwrap();
        let open = fs::File::open(dir.path().join("other/nvidia7")).unwrap();
        let found = of(Path::new("/proc"), std::slice::from_ref(&node));
        assert_eq!(found.iter().map(|holder| holder.pid).collect::<Vec<_>>(), [std::process::id()]);
        assert!(!found[0].name.is_empty() && !found[0].name.contains('('), "{found:?}");
        assert_eq!(of(Path::new("/proc"), &[other, dir.path().join("missing")]), []);
        drop(open);
        assert_eq!(of(Path::new("/proc"), &[node]), []);
    }
}
