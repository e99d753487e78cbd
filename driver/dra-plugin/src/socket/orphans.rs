//! Sockets of this driver's other instances on which nobody listens: what was killed and never came back left them, and the
//! kubelet tries them over and over.
use std::{
    collections::HashMap,
    fs,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{io::Errno, net::SocketAddrUnix};

use super::{SocketPaths, identity, unix_socket};

/// Between two looks: much longer than any instance takes from binding a socket to listening on it.
const PAUSE: Duration = Duration::from_mins(1);
/// What names of registration sockets end with.
const REGISTRATION: &str = "@reg.sock";

/// Device and inode of each file.
type Found = HashMap<PathBuf, (u64, u64)>;

/// Looks for ever, and removes what was found by two looks on end.
pub(crate) async fn remove(own: SocketPaths, driver: String) {
    let mut before = Found::new();
    loop {
        let now = abandoned(&own, &driver);
        for (path, identity) in &now {
            if before.get(path) == Some(identity) {
                match fs::remove_file(path) {
                    Ok(()) => {
                        tracing::info!(path = %path.display(), "removed the socket of an instance that has ended");
                    }
                    Err(error) => {
                        tracing::warn!(path = %path.display(), %error, "a socket of an instance that has ended stays");
                    }
                }
            }
        }
        before = now;
        tokio::time::sleep(PAUSE).await;
    }
}

/// The sockets of other instances on which nobody listens now.
fn abandoned(own: &SocketPaths, driver: &str) -> Found {
    let mut found = Found::new();
    for (ours, begin, end) in [(own.registration.path(), driver, REGISTRATION), (own.dra.path(), "dra", ".sock")] {
        let entries = ours.parent().and_then(|directory| fs::read_dir(directory).ok());
        for path in entries.into_iter().flatten().flatten().map(|entry| entry.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path != ours
                && is_an_instances(&name, begin, end)
                && is_refused(&path)
                && let Ok(identity) = identity(&path)
            {
                found.insert(path, identity);
            }
        }
    }
    found
}

/// Whether a socket of this name is an instance's: one that has no UID, or the hash of one.
fn is_an_instances(name: &str, begin: &str, end: &str) -> bool {
    let Some(mark) = name.strip_prefix(begin).and_then(|rest| rest.strip_suffix(end)) else { return false };
    let is_hash = |text: &str| text.len() == 8 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    mark.is_empty() || mark.strip_prefix('-').is_some_and(is_hash)
}

/// A full queue of connections, or a process that is stopped, is somebody.
fn is_refused(path: &Path) -> bool {
    let is_socket = path.symlink_metadata().is_ok_and(|meta| meta.file_type().is_socket());
    let (Ok(address), Ok(probe)) = (SocketAddrUnix::new(path), unix_socket()) else { return false };
    is_socket && rustix::net::connect(&probe, &address) == Err(Errno::CONNREFUSED)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::name::DriverName;

    #[tokio::test(start_paused = true)]
    async fn what_nobody_listens_on_for_two_looks_goes_and_all_else_stays() {
        let root = tempfile::tempdir().unwrap();
        let driver = DriverName::new("gpu.example.com").unwrap();
        let of = |uid| SocketPaths::new(root.path(), &driver, uid).unwrap();
        let (own, dead, alive) = (of(Some("own")), of(Some("dead")), of(Some("alive")));
        fs::create_dir_all(root.path().join("plugins_registry")).unwrap();
        fs::create_dir_all(root.path().join("plugins/gpu.example.com")).unwrap();
        let bind = |path: &Path| UnixListener::bind(path).unwrap();
        let _alive = [bind(alive.dra.path()), bind(alive.registration.path())];
        let theirs = root.path().join("plugins_registry/gpu.example.com-theirs@reg.sock");
        for path in [dead.dra.path(), dead.registration.path(), own.dra.path(), of(None).dra.path(), &theirs] {
            drop(bind(path));
        }
        fs::write(of(None).registration.path(), "no socket").unwrap();
        let there = || {
            let dirs = ["plugins_registry", "plugins/gpu.example.com"].map(|dir| root.path().join(dir));
            dirs.iter().flat_map(|dir| fs::read_dir(dir).unwrap()).count()
        };
        let removing = tokio::spawn(remove(own.clone(), driver.to_string()));
        tokio::time::sleep(PAUSE / 2).await;
        assert_eq!(there(), 8, "one look is none");
        // Somebody begins to serve there.
        let fresh = root.path().join("fresh");
        drop(bind(&fresh));
        fs::rename(&fresh, of(None).dra.path()).unwrap();
        tokio::time::sleep(PAUSE).await;
        assert_eq!(there(), 6);
        assert!(!dead.dra.path().exists() && !dead.registration.path().exists());
        tokio::time::sleep(PAUSE).await;
        assert_eq!(there(), 5);
        assert!(own.dra.path().exists() && theirs.exists() && !of(None).dra.path().exists());
        removing.abort();
    }

    #[test]
    fn names_of_other_drivers_are_none_of_ours() {
        let ours = |name: &str| is_an_instances(name, "gpu.example.com", REGISTRATION);
        assert!(ours("gpu.example.com@reg.sock") && ours("gpu.example.com-0123abcd@reg.sock"));
        for name in ["gpu.example.com-b@reg.sock", "gpu.example.com-0123abcd-reg.sock", "a-0123abcd@reg.sock", "x"] {
            assert!(!ours(name), "{name}");
        }
    }
}
