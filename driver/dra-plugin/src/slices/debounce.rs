//! Waits until a burst of events is over, but never for long.
use std::time::Duration;

use tokio::time::Instant;

/// So much silence means that the burst is over: the kubelet's wipe deletes all slices of a node one by one.
const QUIET: Duration = Duration::from_secs(1);
/// However much goes on.
const LONGEST: Duration = Duration::from_secs(5);

/// When to look, if at all.
#[derive(Debug, Default)]
pub(super) struct Debounce {
    /// Since when there is something to look at, and the last event.
    pending: Option<(Instant, Instant)>,
}

impl Debounce {
    pub(super) fn event(&mut self, now: Instant) {
        let since = self.pending.map_or(now, |(since, _)| since);
        self.pending = Some((since, now));
    }

    pub(super) fn clear(&mut self) {
        self.pending = None;
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.pending.map(|(since, last)| (last + QUIET).min(since + LONGEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_push_the_look_back_but_not_for_ever() {
        let start = Instant::now();
        let mut debounce = Debounce::default();
        assert_eq!(debounce.due(), None);
        for tenths in 0..100 {
            debounce.event(start + Duration::from_millis(100) * tenths);
            assert!(debounce.due().unwrap() <= start + LONGEST);
        }
        debounce.clear();
        debounce.event(start);
        assert_eq!(debounce.due(), Some(start + QUIET));
    }
}
