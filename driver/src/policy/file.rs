//! The policy file at the edge: read once through one descriptor, and watched by its directory.
use std::{
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::Duration,
};

use futures::StreamExt as _;
use inotify::{EventMask, EventOwned, EventStream, Inotify, WatchMask};
use rustix::fs::{Mode, OFlags};

/// Where files can't be watched, how often they are looked at.
const LOOK: Duration = Duration::from_secs(5);

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

/// A directory where something always changes must not keep a change of the file from being seen: so many times the time
/// of quiet is the longest wait for it.
const LONGEST_SETTLE: u32 = 10;

type Events = EventStream<[u8; 4096]>;

/// Changes in the file's directory.
pub(super) struct Changes {
    dir: PathBuf,
    /// None while there is no such directory, or the kernel has no inotify instance left.
    events: Option<Events>,
    /// The watch, or the directory's name, has gone.
    lost: bool,
    told: bool,
}

impl Changes {
    /// From now on.
    pub(super) fn of(path: &Path) -> Self {
        let mut changes =
            Self { dir: path.parent().unwrap_or(path).to_owned(), events: None, lost: false, told: false };
        changes.watch();
        changes
    }

    /// Returns after a change, once nothing more has changed for `settle`.
    ///
    /// Whoever gives up waiting reads the file, and goes on with another call.
    pub(super) async fn next(&mut self, settle: Duration) {
        if self.lost {
            return self.renew();
        }
        let Some(events) = &mut self.events else {
            if !self.watch() {
                tokio::time::sleep(LOOK).await;
            }
            // What changed unseen is seen by reading.
            return;
        };
        let lost = &mut self.lost;
        *lost |= is_lost(events.next().await);
        let quiet = async {
            while !*lost && let Ok(event) = tokio::time::timeout(settle, events.next()).await {
                *lost |= is_lost(event);
            }
        };
        let _ = tokio::time::timeout(settle * LONGEST_SETTLE, quiet).await;
        if self.lost {
            self.renew();
        }
    }

    /// Another directory may have its name by now. What is in it is read after this, and seen from now on.
    fn renew(&mut self) {
        (self.events, self.lost) = (None, false);
        self.watch();
    }

    /// Whether there is a watch now.
    fn watch(&mut self) -> bool {
        match watched(&self.dir) {
            Ok(events) => {
                self.events = Some(events);
                self.told = false;
            }
            Err(error) if !self.told => {
                let dir = self.dir.display();
                tracing::warn!(%error, %dir, "the policy's directory can't be watched; it is looked at every {LOOK:?}");
                self.told = true;
            }
            Err(_) => {}
        }
        self.events.is_some()
    }
}

fn watched(dir: &Path) -> io::Result<Events> {
    let events = Inotify::init()?.into_event_stream([0; 4096])?;
    let mask = WatchMask::CREATE | WatchMask::CLOSE_WRITE | WatchMask::MOVE | WatchMask::DELETE;
    events.watches().add(dir, mask | WatchMask::DELETE_SELF | WatchMask::MOVE_SELF | WatchMask::ONLYDIR)?;
    Ok(events)
}

/// Whether the watch, or the directory's name, has gone.
fn is_lost(event: Option<io::Result<EventOwned>>) -> bool {
    let gone = EventMask::IGNORED | EventMask::UNMOUNT | EventMask::DELETE_SELF | EventMask::MOVE_SELF;
    event.is_none_or(|event| event.is_ok_and(|event| event.mask.intersects(gone)))
}
