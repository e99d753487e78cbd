//! Files that are looked at in each call and hardly ever change: each is read again when it isn't the one that was read.
use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

/// A file whose time is closer than this may change again without its time doing so.
const FRESH: Duration = Duration::from_millis(50);

/// What was read last.
pub(crate) struct Cached<T>(Mutex<Option<(PathBuf, Stamp, Arc<T>)>>);

/// Which file it was; none where there was none.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

impl<T> Cached<T> {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// What `read` makes of the file as it is now.
    pub(crate) fn get(&self, path: &Path, read: impl FnOnce(&Path) -> T) -> Arc<T> {
        let (now, is_settled) = stamp(path);
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, then, content)) = &*last
            && known == path
            && *then == now
        {
            return Arc::clone(content);
        }
        let content = Arc::new(read(path));
        *last = is_settled.then(|| (path.to_owned(), now, Arc::clone(&content)));
        content
    }
}

/// And whether its time tells it from another.
fn stamp(path: &Path) -> (Stamp, bool) {
    let Ok(file) = path.metadata() else { return (None, true) };
    #[allow(clippy::disallowed_methods, reason = "the times of files are of this clock")]
    let now = SystemTime::now();
    let age = file.modified().ok().and_then(|time| now.duration_since(time).ok());
    let stamp = (file.dev(), file.ino(), file.size(), file.mtime(), file.mtime_nsec());
    (Some(stamp), age.is_some_and(|age| age > FRESH))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_change_is_seen_at_once_and_what_stays_is_read_once() {
        let dir = tempfile::tempdir().unwrap();
        let (path, fresh) = (dir.path().join("control"), dir.path().join("new"));
        let cached = Cached::new();
        let text = |read: &mut u32| {
            let text = cached.get(&path, |path| {
                *read += 1;
                fs::read_to_string(path).unwrap_or_default()
            });
            text.as_str().to_owned()
        };
        let mut read = 0;
        assert_eq!((text(&mut read), text(&mut read), read), (String::new(), String::new(), 1));
        for number in 0..100 {
            fs::write(&fresh, number.to_string()).unwrap();
            fs::rename(&fresh, &path).unwrap();
            assert_eq!(text(&mut read), number.to_string());
        }
        std::thread::sleep(2 * FRESH);
        text(&mut read);
        let before = read;
        text(&mut read);
        assert_eq!(read, before);
    }
}
