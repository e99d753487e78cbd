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

/// In bytes; what is longer begins anew, so that pods that fail over and over don't fill the disk.
const LARGEST: u64 = 256 << 10;

/// Appends a line: seconds since 1970, the container's id and the reason.
pub(crate) fn append(path: &Path, id: &str, reason: &dyn fmt::Display) -> io::Result<()> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let mut file = File::options().append(true).create(true).mode(0o600).custom_flags(flags).open(path)?;
    if file.metadata()?.len() > LARGEST {
        file.set_len(0)?;
    }
    #[allow(clippy::disallowed_methods, reason = "it is for those who read the log")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    file.write_all(line(now, id, reason).as_bytes())
}

/// One line, whatever is in it.
fn line(now: u64, id: &str, reason: &dyn fmt::Display) -> String {
    let text = format!("{now} {id} {reason}");
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).chain(['\n']).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn each_refusal_is_a_line_and_the_file_stays_small() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hook.log");
        append(&path, "c1", &"one\ntwo").unwrap();
        append(&path, "c2", &"three").unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().map(|line| line.split_once(' ').unwrap().1).collect();
        assert_eq!(lines, ["c1 one two", "c2 three"]);
        fs::write(&path, vec![b'x'; 1 + (256 << 10)]).unwrap();
        append(&path, "c3", &"four").unwrap();
        assert!(fs::metadata(&path).unwrap().len() < 100);
    }

    #[test]
    fn a_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("other"), "").unwrap();
        symlink("other", dir.path().join("hook.log")).unwrap();
        assert!(append(&dir.path().join("hook.log"), "c", &"x").is_err());
    }
}
