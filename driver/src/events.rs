//! Events on the Node for what an administrator has to mend: GPUs that can't be read.
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::discovery::View;

/// The API server refuses a longer note (events.k8s.io/v1).
const LONGEST_NOTE: usize = 1024;

/// What is worth telling of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Notice {
    type_: EventType,
    reason: &'static str,
    note: String,
}

/// Writes events for each change of the view, until `stop`. An event that can't be written is only logged: the log has
/// said the same.
pub(crate) async fn tell(
    client: kube::Client,
    driver: String,
    node: String,
    mut view: watch::Receiver<View>,
    stop: CancellationToken,
) {
    let reporter = Reporter { controller: driver, instance: Some(node.clone()) };
    let recorder = Recorder::new(client, reporter);
    // As the kubelet refers to its node: kubectl finds events by the name in place of the UID.
    let regarding = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Node".to_owned()),
        name: Some(node.clone()),
        uid: Some(node),
        ..ObjectReference::default()
    };
    let mut last = View::Searching;
    loop {
        let now = view.borrow_and_update().clone();
        for notice in notices(&last, &now) {
            let event = Event {
                type_: notice.type_,
                reason: notice.reason.to_owned(),
                note: Some(notice.note),
                action: "Discover".to_owned(),
                secondary: None,
            };
            let written = tokio::select! {
                () = stop.cancelled() => return,
                written = recorder.publish(&event, &regarding) => written,
            };
            if let Err(error) = written {
                tracing::warn!(
                    reason = event.reason,
                    error = crate::report(&error),
                    "an event on the node can't be written"
                );
            }
        }
        last = now;
        tokio::select! {
            () = stop.cancelled() => return,
            changed = view.changed() => if changed.is_err() { return },
        }
    }
}

/// What the step from one view to the next is worth telling.
fn notices(last: &View, now: &View) -> Vec<Notice> {
    let warning = |reason, note: String| Notice { type_: EventType::Warning, reason, note: cut(note) };
    match now {
        View::Searching => Vec::new(),
        View::Unavailable(reason) => vec![warning("GPUsUnavailable", format!("no GPUs can be offered: {reason}"))],
        View::Ready(found) => {
            let known = |gpu| matches!(last, View::Ready(before) if before.inventory.broken().contains(gpu));
            let mut notices: Vec<Notice> = found
                .inventory
                .broken()
                .iter()
                .filter(|gpu| !known(gpu))
                .map(|gpu| {
                    let place = gpu.pci.map_or_else(String::new, |pci| format!(" at {pci}"));
                    warning("GPUUnhealthy", format!("GPU {}{place} is not offered: {}", gpu.index, gpu.reason))
                })
                .collect();
            if let View::Ready(before) = last {
                let gone = found.inventory.gone_since(&before.inventory);
                notices.extend(gone.map(|gpu| {
                    warning(
                        "GPUGone",
                        format!(
                            "GPU {} at {} ({}) is gone and is no longer offered",
                            gpu.uuid, gpu.pci, gpu.product_name
                        ),
                    )
                }));
            }
            if found.inventory.gpus().is_empty() && notices.is_empty() {
                notices.push(warning(
                    "NoGPUs",
                    "NVML lists no GPU: is one installed, and is it bound to the nvidia module?".to_owned(),
                ));
            }
            if matches!(last, View::Unavailable(_)) && !found.inventory.gpus().is_empty() {
                let note = format!("{} GPUs are offered again", found.inventory.gpus().len());
                notices.push(Notice { type_: EventType::Normal, reason: "GPUsAvailable", note });
            }
            notices
        }
    }
}

fn cut(mut note: String) -> String {
    note.truncate(note.floor_char_boundary(LONGEST_NOTE));
    note
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use aliquot_model::{BrokenGpu, Inventory};

    use super::*;
    use crate::discovery::Found;

    fn ready(broken: Vec<BrokenGpu>) -> View {
        View::Ready(Arc::new(Found {
            inventory: Inventory::new(vec![], broken),
            installation: crate::discovery::installation::Installation::default(),
        }))
    }

    fn lost() -> BrokenGpu {
        BrokenGpu { index: 2, pci: Some("0000:41:00.0".parse().unwrap()), reason: "it is lost".into() }
    }

    #[test]
    fn a_broken_gpu_is_told_once_with_its_place() {
        let first = notices(&View::Searching, &ready(vec![lost()]));
        assert_eq!(first[0].note, "GPU 2 at 0000:41:00.0 is not offered: it is lost");
        assert_eq!(
            notices(&ready(vec![lost()]), &ready(vec![lost()])).iter().filter(|n| n.reason == "GPUUnhealthy").count(),
            0
        );
    }

    #[test]
    fn a_node_without_gpus_says_why_in_a_note_that_the_api_server_takes() {
        let told = notices(&View::Searching, &View::Unavailable("ü".repeat(2000)));
        assert_eq!(told[0].reason, "GPUsUnavailable");
        assert!(told[0].note.len() <= LONGEST_NOTE);
        assert_eq!(notices(&View::Searching, &ready(vec![]))[0].reason, "NoGPUs");
    }
}
