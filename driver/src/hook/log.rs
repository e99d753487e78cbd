//! The hook's log, read on from where it was read last.
//!
//! Only root writes it, but what is in it comes from containers and their images in part: lines and what is read at a time
//! are bounded, links aren't followed, and what isn't a refusal is passed over.
use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;
use serde::Deserialize;

/// In bytes; of more, the end is read.
const MOST: u64 = 64 << 10;
/// Names in Kubernetes are DNS subdomains at most.
const LONGEST_NAME: usize = 253;

/// A container that the hook didn't let start.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Refusal {
    /// The container as the runtime names it.
    pub(crate) id: String,
    namespace: Option<String>,
    pod: Option<String>,
    uid: Option<String>,
    /// The container's name in the pod.
    pub(crate) container: Option<String>,
    /// Why.
    pub(crate) reason: String,
}

/// The pod of a refused container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) pod: &'a str,
    pub(crate) uid: &'a str,
}

impl Refusal {
    /// From a line of the log.
    fn parse(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }

    /// The pod, if the runtime told of it.
    pub(crate) fn pod(&self) -> Option<Refused<'_>> {
        let name = |name: &'_ Option<String>| name.as_deref().is_some_and(is_name);
        let (Some(namespace), Some(pod), Some(uid)) = (&self.namespace, &self.pod, &self.uid) else { return None };
        let all = [&self.namespace, &self.pod, &self.uid].into_iter().all(name);
        all.then_some(Refused { namespace, pod, uid })
    }
}

fn is_name(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
    !text.is_empty() && text.len() <= LONGEST_NAME && text.bytes().all(is_plain)
}

/// A way in for the fuzzer.
#[cfg(fuzzing)]
pub(crate) mod fuzzing {
    use super::{LONGEST_NAME, Refusal};

    /// What is taken for a pod has names that are Kubernetes', and so of no path.
    pub(crate) fn line(line: &[u8]) -> Option<Refusal> {
        let refusal = Refusal::parse(line)?;
        if let Some(pod) = refusal.pod() {
            for name in [pod.namespace, pod.pod, pod.uid] {
                assert!(!name.is_empty() && name.len() <= LONGEST_NAME && !name.contains(['/', ' ', '\n']), "{name:?}");
            }
        }
        Some(refusal)
    }
}

/// A log and how far it was read.
#[derive(Debug)]
pub(crate) struct Tail {
    path: PathBuf,
    /// Which file; another one is read from its beginning.
    inode: u64,
    read: u64,
}

impl Tail {
    /// From its present end on: what is in it was told of before. One that can't be read now is read from its beginning
    /// once it can; why it can't is told by each reading.
    pub(crate) fn at_end(path: PathBuf) -> Self {
        let end = open(&path).ok().flatten().and_then(|file| file.metadata().ok());
        let (inode, read) = end.map_or((0, 0), |meta| (meta.ino(), meta.len()));
        Self { path, inode, read }
    }

    /// The refusals that were written since.
    pub(crate) fn read_on(&mut self) -> io::Result<Vec<Refusal>> {
        let Some(mut file) = open(&self.path)? else { return Ok(Vec::new()) };
        let meta = file.metadata()?;
        if meta.ino() != self.inode || meta.len() < self.read {
            // Begun anew, as it was long.
            (self.inode, self.read) = (meta.ino(), 0);
        }
        let from = self.read.max(meta.len().saturating_sub(MOST));
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(MOST).read_to_end(&mut bytes)?;
        // A line without its end is still being written, or is longer than any.
        let ended = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let is_too_long = ended == 0 && bytes.len() as u64 == MOST;
        self.read = from + if is_too_long { MOST } else { ended as u64 };
        Ok(bytes[..ended].split(|byte| *byte == b'\n').filter_map(Refusal::parse).collect())
    }
}

/// Without waiting for whoever made something else of it.
fn open(path: &Path) -> io::Result<Option<File>> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = match File::options().read(true).custom_flags(flags).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    if file.metadata()?.is_file() { Ok(Some(file)) } else { Err(io::Error::other("it is no regular file")) }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn append(path: &Path, text: &str) {
        File::options().create(true).append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn ids(tail: &mut Tail) -> Vec<String> {
        tail.read_on().unwrap().into_iter().map(|refusal| refusal.id).collect()
    }

    fn line(id: &str) -> String {
        format!("{{\"time\":1,\"id\":\"{id}\",\"reason\":\"r\"}}\n")
    }

    #[test]
    fn each_refusal_is_read_once_and_none_of_an_earlier_driver() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hook.log");
        append(&path, &line("old"));
        let mut tail = Tail::at_end(path.clone());
        assert!(ids(&mut tail).is_empty());
        append(&path, &(line("a") + "no refusal\n" + &line("b") + "{\"id\""));
        assert_eq!(ids(&mut tail), ["a", "b"]);
        append(&path, ":\"c\",\"reason\":\"r\"}\n");
        assert_eq!(ids(&mut tail), ["c"]);
        assert!(ids(&mut tail).is_empty());
    }

    #[test]
    fn a_log_that_begins_anew_is_read_from_its_beginning() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hook.log");
        let mut tail = Tail::at_end(path.clone());
        append(&path, &(line("a") + &line("b")));
        assert_eq!(ids(&mut tail), ["a", "b"]);
        std::fs::write(&path, line("c")).unwrap();
        assert_eq!(ids(&mut tail), ["c"]);
        std::fs::rename(&path, dir.path().join("old")).unwrap();
        append(&path, &(line("d") + &line("e")));
        assert_eq!(ids(&mut tail), ["d", "e"]);
    }

    #[test]
    fn of_a_log_that_grew_too_much_the_end_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hook.log");
        let mut tail = Tail::at_end(path.clone());
        append(&path, &(line("lost") + &"x".repeat(200 << 10) + "\n" + &line("a")));
        assert_eq!(ids(&mut tail), ["a"]);
        append(&path, &"x".repeat(200 << 10));
        assert!(ids(&mut tail).is_empty());
        append(&path, &("\n".to_owned() + &line("b")));
        assert_eq!(ids(&mut tail), ["b"]);
    }

    #[test]
    fn what_is_no_file_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hook.log");
        let mut tail = Tail::at_end(path.clone());
        append(&dir.path().join("other"), &line("a"));
        std::os::unix::fs::symlink("other", &path).unwrap();
        assert!(tail.read_on().is_err());
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(tail.read_on().is_err());
    }

    #[test]
    fn one_that_cannot_be_read_at_first_is_read_from_its_beginning_later() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hook.log");
        std::fs::create_dir(&path).unwrap();
        let mut tail = Tail::at_end(path.clone());
        assert!(tail.read_on().is_err());
        std::fs::remove_dir(&path).unwrap();
        append(&path, &line("a"));
        assert_eq!(ids(&mut tail), ["a"]);
    }

    #[test]
    fn only_names_that_kubernetes_gives_are_a_pod() {
        let pod = |name: &str| {
            let line = serde_json::json!({"id": "c", "namespace": "ns", "pod": name, "uid": "u-1", "reason": "r"});
            Refusal::parse(line.to_string().as_bytes()).unwrap().pod().is_some()
        };
        assert!(pod("a-pod.1"));
        for name in ["", "a/b", "a b", "a\n"] {
            assert!(!pod(name), "{name:?}");
        }
        assert_eq!(Refusal::parse(line("c").as_bytes()).unwrap().pod(), None);
    }
}
