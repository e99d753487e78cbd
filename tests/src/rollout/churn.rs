//! Pods one after the other: made, waited for until they run, deleted, waited for until they are gone.
use aliquot_daemon::report;
use tokio::{sync::watch, time::Instant};

use super::tally::Made;
use crate::load::{Act, Kind, Stage};

/// Until there is no change any more to make pods during; what became of each.
pub(super) async fn churn(
    stage: &Stage,
    kind: Kind,
    worker: usize,
    image: &str,
    changes: watch::Receiver<Option<usize>>,
) -> Vec<Made> {
    let mut all = Vec::new();
    loop {
        let Some(change) = *changes.borrow() else { return all };
        let name = format!("{}-{worker}-{}", kind.name(), all.len());
        let begun = Instant::now();
        let started = stage.start(&name, kind.pod(&name, image, Act::Stay)).await;
        let took = begun.elapsed();
        let ended = stage.end(&name).await;
        // What doesn't end is told too: the next one is another pod.
        let started = started.and(ended).map(|()| took).map_err(|error| report(&error));
        all.push(Made { change, name, started });
    }
}
