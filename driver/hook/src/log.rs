//! Refusals on the host: crun drops what a hook writes to standard error, and tells of nothing but its exit code.
use std::{
    fmt,
    fs::File,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::fs::OFlags;
use serde_json::json;

use crate::subject::Subject;

/// In bytes; what is longer begins anew, so that pods that fail over and over don't fill the disk.
const LARGEST: u64 = 256 << 10;
/// In bytes, of a reason; paths of an image are in it.
const LONGEST: usize = 4096;

/// Appends a line: a JSON object, which the driver makes an event of.
pub(crate) fn append(path: &Path, subject: &Subject, reason: &dyn fmt::Display) -> io::Result<()> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let mut file = File::options().append(true).create(true).mode(0o600).custom_flags(flags).open(path)?;
    if file.metadata()?.len() > LARGEST {
        file.set_len(0)?;
    }
    #[allow(clippy::disallowed_methods, reason = "it is for those who read the log")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    file.write_all(line(now, subject, reason).as_bytes())
}

/// One line, whatever is in it: JSON escapes what would end it.
fn line(now: u64, subject: &Subject, reason: &dyn fmt::Display) -> String {
    let mut reason = reason.to_string();
    reason.truncate(reason.floor_char_boundary(LONGEST));
    let Subject { id, namespace, pod, uid, container } = subject;
    let line = json!({
        "time": now, "id": id, "namespace": namespace, "pod": pod, "uid": uid, "container": container, "reason": reason,
    });
    format!("{line}\n")
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn each_refusal_is_a_line_and_the_file_stays_small() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hook.log");
        let c1 = Subject { id: "c1".into(), ..Subject::default() };
        append(&path, &c1, &"one\ntwo").unwrap();
        append(&path, &c1, &"x".repeat(9000)).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((&lines[0]["id"], &lines[0]["reason"]), (&json!("c1"), &json!("one\ntwo")));
        assert_eq!(lines[1]["reason"].as_str().map(str::len), Some(4096));
        fs::write(&path, vec![b'x'; 1 + (256 << 10)]).unwrap();
        append(&path, &c1, &"four").unwrap();
        assert!(fs::metadata(&path).unwrap().len() < 200);
    }

    #[test]
    fn a_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("other"), "").unwrap();
        symlink("other", dir.path().join("hook.log")).unwrap();
        assert!(append(&dir.path().join("hook.log"), &Subject::default(), &"x").is_err());
    }
}
