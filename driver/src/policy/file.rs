//! The policy file at the edge: read once through one descriptor, and watched by its directory.
use std::{
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::Duration,
};

use futures::StreamExt as _;
use inotify::{EventStream, Inotify, WatchMask};
use rustix::fs::{Mode, OFlags};

/// Where files can't be watched, how often they are looked at.
const LOOK: Duration = Duration::from_secs(10);

/// Why a file can't be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The system refuses.
    #[error("{} can't be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is a pipe or a directory, say.
    #[error("{} is no regular file", .0.display())]
    NoFile(PathBuf),
}

/// Reads at most one byte more than `most`, so that a file that is too large shows.
///
/// Links are followed, as a `ConfigMap`'s volume is made of them; what was opened is what is checked and read.
pub(crate) fn read(path: &Path, most: u64) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    // Opening a pipe would otherwise wait for a writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
    let file = std::fs::File::from(file);
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(Error::NoFile(path.to_owned()));
    }
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// Changes in the file's directory.
pub(super) struct Changes {
    /// None where the kernel has no inotify instance left.
    events: Option<EventStream<[u8; 4096]>>,
}

impl Changes {
    /// From now on.
    pub(super) fn of(path: &Path) -> Self {
        let watched = || {
            let events = Inotify::init()?.into_event_stream([0; 4096])?;
            let mask = WatchMask::CREATE | WatchMask::CLOSE_WRITE | WatchMask::MOVE | WatchMask::DELETE;
            events.watches().add(path.parent().unwrap_or(path), mask)?;
            io::Result::Ok(events)
        };
        let events = watched().inspect_err(|error| {
            tracing::warn!(%error, file = %path.display(), "the policy's directory can't be watched; it is read every {LOOK:?}");
        });
        Self { events: events.ok() }
    }

    /// Returns after a change, once nothing more has changed for `settle`.
    pub(super) async fn next(&mut self, settle: Duration) {
        let Some(events) = &mut self.events else {
            return tokio::time::sleep(LOOK).await;
        };
        if events.next().await.is_none() {
            self.events = None;
            return;
        }
        while tokio::time::timeout(settle, events.next()).await.is_ok_and(|event| event.is_some()) {}
    }
}
