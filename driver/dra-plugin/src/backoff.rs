//! How long to wait before trying again: doubling, bounded, and never in step with others.
use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    time::Duration,
};

/// A sequence of pauses that doubles from `first` up to `longest`.
#[derive(Clone, Debug)]
pub struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    /// A new sequence.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { next: first, longest }
    }

    /// The next pause, between a half and the whole of its nominal length.
    pub fn pause(&mut self) -> Duration {
        let nominal = self.next.min(self.longest);
        self.next = nominal.saturating_mul(2);
        nominal / 2 + jitter(nominal / 2)
    }
}

/// A random duration of at most `most`.
pub(crate) fn jitter(most: Duration) -> Duration {
    // Each RandomState has other keys, so that the hash of nothing is a random number.
    let random = RandomState::new().build_hasher().finish();
    let most = u64::try_from(most.as_micros()).unwrap_or(u64::MAX - 1);
    Duration::from_micros(random % (most + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_longest_and_stay_within_it() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let pauses: Vec<_> = (0..8).map(|_| backoff.pause()).collect();
        for (pause, nominal) in pauses.iter().zip([100, 200, 400, 800, 1000, 1000, 1000, 1000]) {
            let nominal = Duration::from_millis(nominal);
            assert!(*pause >= nominal / 2 && *pause <= nominal, "{pause:?} of {nominal:?}");
        }
    }

    #[test]
    fn two_plugins_do_not_pause_in_step() {
        let pauses: std::collections::BTreeSet<_> = (0..16).map(|_| jitter(Duration::from_mins(1))).collect();
        assert!(pauses.len() > 8);
    }
}
