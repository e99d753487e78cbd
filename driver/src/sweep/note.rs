//! What administrators and users read of the sweep.
use std::time::Duration;

use super::types::{Item, Kind, Reason};

/// How many events of a round name one thing each; what is beyond is one event together.
pub(crate) const MOST: usize = 16;

/// What was removed, or would be.
pub(crate) fn stale(item: &Item, reason: Reason, for_: Duration, is_removed: bool) -> String {
    let what = match (&item.kind, item.claim()) {
        (Kind::Spec, _) => format!("the CDI spec of the claim with UID {}", item.uid),
        (Kind::Quarantined { .. }, _) => format!("the damaged record of the claim with UID {}", item.uid),
        (Kind::Record(_), Some(claim)) => format!("what was prepared for ResourceClaim {claim} (UID {})", item.uid),
        (Kind::Record(_), None) => format!("what was prepared for the claim with UID {}", item.uid),
    };
    let devices = names(item);
    let held = if devices.is_empty() { String::new() } else { format!(", which held {devices},") };
    let why = format!("{}, and no container on this node has used it for {}", reason.text(), period(for_));
    if is_removed {
        format!("removed {what}{}: {why}", held.trim_end_matches(','))
    } else {
        format!("{what}{held} is stale: {why}; it stays, as the sweep only reports (--sweep=act removes it)")
    }
}

/// For those that have no event of their own.
pub(crate) fn more(count: usize, is_removed: bool) -> String {
    let done = if is_removed { "were removed" } else { "are stale" };
    format!("{count} more claims {done}; the driver's log on this node names them")
}

/// The devices, as text.
fn names(item: &Item) -> String {
    item.devices.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn period(length: Duration) -> String {
    match length.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::claim::testing::record;

    #[test]
    fn the_note_names_the_claim_its_devices_and_both_proofs() {
        let record = record("u1", &["gpu-0"]);
        let devices = record.devices.iter().map(|held| held.device.clone()).collect();
        let uid = record.claim.uid().clone();
        let item = Item { uid, kind: Kind::Record(Arc::new(record)), asked: None, devices };
        let told = stale(&item, Reason::Gone, Duration::from_secs(301), true);
        assert_eq!(
            told,
            "removed what was prepared for ResourceClaim default/claim (UID u1), which held gpu-0: the claim doesn't exist \
             any more, and no container on this node has used it for 5 min"
        );
        assert!(stale(&item, Reason::Gone, Duration::from_secs(301), false).ends_with("(--sweep=act removes it)"));
    }
}
