//! Wakes those who read files when something changes in the directories of these.
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::StreamExt as _;
use inotify::{EventStream, Inotify, WatchMask};

use crate::roots::Roots;

/// A driver's installer touches many files; they are taken as one change.
const SETTLE: Duration = Duration::from_millis(300);
/// What never settles is looked at all the same.
const LONGEST: Duration = Duration::from_secs(3);

/// Watches directories, also those that aren't there yet.
pub struct Waker {
    /// None where the kernel has no inotify instance left.
    events: Option<EventStream<[u8; 4096]>>,
    places: Vec<PathBuf>,
    relevant: fn(Option<&str>) -> bool,
}

impl Waker {
    /// For the device nodes, those of VFIO among them, and every place where the driver's library may appear.
    pub fn of_driver(roots: &Roots) -> Self {
        let mut places = BTreeSet::from([roots.dev.clone(), roots.dev.join("vfio"), roots.dev.join("vfio/devices")]);
        for library in aliquot_nvml::candidates(&roots.driver) {
            places.extend(library.parent().map(Path::to_path_buf));
        }
        Self::new(places, relevant)
    }

    /// For these directories, and entries of names that are relevant.
    pub fn new(places: impl IntoIterator<Item = PathBuf>, relevant: fn(Option<&str>) -> bool) -> Self {
        let events = Inotify::init()
            .and_then(|inotify| inotify.into_event_stream([0; 4096]))
            .inspect_err(|error| {
                tracing::warn!(%error, "files can't be watched (fs.inotify.max_user_instances?); \
                they are still read from time to time");
            })
            .ok();
        let waker = Self { events, places: places.into_iter().collect(), relevant };
        waker.watch();
        waker
    }

    /// Whether changes are seen at all; else they are to be looked for.
    pub fn watches(&self) -> bool {
        self.events.is_some()
    }

    /// A place that isn't there is watched for through its nearest directory that is.
    fn watch(&self) {
        let Some(events) = &self.events else { return };
        let mask =
            WatchMask::CREATE | WatchMask::DELETE | WatchMask::MOVED_TO | WatchMask::MOVED_FROM | WatchMask::ONLYDIR;
        let nearest = |place: &Path| place.ancestors().find(|path| path.is_dir()).map(Path::to_path_buf);
        for dir in self.places.iter().filter_map(|place| nearest(place)).collect::<BTreeSet<_>>() {
            if let Err(error) = events.watches().add(&dir, mask) {
                tracing::debug!(dir = %dir.display(), %error, "this directory can't be watched");
            }
        }
    }

    /// Returns after a change once nothing more has changed for a moment, or after a while if that doesn't end.
    pub async fn woken(&mut self) {
        let Some(events) = &mut self.events else {
            return std::future::pending().await;
        };
        loop {
            match events.next().await {
                Some(Ok(event)) if (self.relevant)(event.name.as_deref().and_then(|name| name.to_str())) => break,
                Some(_) => {}
                None => return std::future::pending().await,
            }
        }
        let settling = async { while tokio::time::timeout(SETTLE, events.next()).await.is_ok_and(|e| e.is_some()) {} };
        let _ = tokio::time::timeout(LONGEST, settling).await;
        self.watch();
    }
}

/// /dev is a busy place: of files, only the driver's count; new directories may lead to them.
fn relevant(name: Option<&str>) -> bool {
    name.is_none_or(|name| name.contains("nvidia") || name.contains("cuda") || !name.contains('.'))
}
