//! Tells of containers that the hook refused on their pods: crun drops what a hook says, and nobody reads a node's files.
use std::{io, path::Path, time::Duration};

use futures::StreamExt as _;
use inotify::{EventStream, Inotify, WatchMask};
use tokio_util::sync::CancellationToken;

use super::log::{Refusal, Tail};
use crate::{notices::Notices, roots::Roots};

const REASON: &str = "ContainerRefused";
/// How often the log is looked at besides, for where it can't be watched.
const LOOK: Duration = Duration::from_secs(30);
/// Of one reading; a node on which more are refused at once has one cause for all.
const MOST: usize = 32;

/// Tells of each refusal from now on, until `stop`.
pub(crate) async fn tell(roots: Roots, notices: Notices, stop: CancellationToken) {
    let path = super::log_path(&roots);
    // Watched before it is looked at, so that nothing is missed between.
    let mut events = watched(&roots.plugin)
        .inspect_err(|error| tracing::warn!(%error, "the hook's log can't be watched; it is looked at every {LOOK:?}"))
        .ok();
    let mut tail = Tail::at_end(path.clone());
    while stop.run_until_cancelled(changed(&mut events)).await.is_some() {
        match tail.read_on() {
            Ok(refusals) => refusals.iter().take(MOST).for_each(|refusal| tell_of(refusal, &notices)),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the hook's log can't be read; why containers are refused is \
                    told nowhere else");
            }
        }
    }
}

/// Logged and told: on the pod, or on the node where the runtime doesn't say which pod it is.
fn tell_of(refusal: &Refusal, notices: &Notices) {
    let note = note(refusal);
    tracing::warn!(container = refusal.id, "{note}");
    match refusal.pod() {
        Some(pod) => {
            notices.warn_container(pod.namespace, (pod.pod, pod.uid), refusal.container.as_deref(), REASON, note);
        }
        None => notices.warn_node(REASON, note),
    }
}

fn note(refusal: &Refusal) -> String {
    let Refusal { id, container, reason, .. } = refusal;
    let note = format!("container {} isn't started: {reason}", container.as_ref().unwrap_or(id));
    // A note may have several lines, and kubectl would show them as such.
    note.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A way in for the fuzzer.
#[cfg(fuzzing)]
pub(crate) mod fuzzing {
    /// The note about whatever is taken from a line is one line, as an event shows it.
    pub(crate) fn line(line: &[u8]) {
        if let Some(refusal) = super::super::log::fuzzing::line(line) {
            assert!(!super::note(&refusal).contains(['\n', '\r']));
        }
    }
}

type Events = EventStream<[u8; 4096]>;

/// The directory, as the log may not be there yet.
fn watched(dir: &Path) -> io::Result<Events> {
    let events = Inotify::init()?.into_event_stream([0; 4096])?;
    events.watches().add(dir, WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO | WatchMask::ONLYDIR)?;
    Ok(events)
}

/// Returns when something in the directory was written, or some time has passed.
async fn changed(events: &mut Option<Events>) {
    let Some(stream) = events else { return tokio::time::sleep(LOOK).await };
    if matches!(tokio::time::timeout(LOOK, stream.next()).await, Ok(None)) {
        *events = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_one_line_about_the_container_by_the_name_that_its_author_gave_it() {
        let of = |json: &str| note(&serde_json::from_str(json).unwrap());
        assert_eq!(of(r#"{"id": "c1", "container": "main", "reason": "a\nb"}"#), "container main isn't started: a b");
        assert_eq!(of(r#"{"id": "c1", "reason": "x"}"#), "container c1 isn't started: x");
        assert_eq!(of(r#"{"id": "c\n1", "reason": "x"}"#), "container c 1 isn't started: x");
    }
}
