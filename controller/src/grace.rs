//! What must hold for a while before anything is done about it. Pure, and by a clock that nobody sets.
use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    time::Duration,
};

use tokio::time::Instant;

/// What holds, and since when.
#[derive(Debug)]
pub(crate) struct Graces<K> {
    held: HashMap<K, Held>,
    grace: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    /// When it is to be looked at.
    due: Instant,
    /// Whether a live look has confirmed it.
    is_confirmed: bool,
    /// When it was announced first to whom it concerns.
    announced: Option<Instant>,
}

impl Held {
    fn new(due: Instant) -> Self {
        Self { due, is_confirmed: false, announced: None }
    }
}

impl<K: Eq + Hash + Clone> Graces<K> {
    pub(crate) fn new(grace: Duration) -> Self {
        Self { held: HashMap::new(), grace }
    }

    /// Takes what holds now: what is new begins its grace, and what holds no more is forgotten.
    pub(crate) fn observe(&mut self, now: Instant, holding: HashSet<K>) {
        self.held.retain(|key, _| holding.contains(key));
        for key in holding {
            self.held.entry(key).or_insert(Held::new(now + self.grace));
        }
    }

    /// What is to be looked at.
    pub(crate) fn due(&self, now: Instant) -> Vec<K> {
        self.held.iter().filter(|(_, held)| held.due <= now).map(|(key, _)| key.clone()).collect()
    }

    /// When something is to be looked at next.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.held.values().map(|held| held.due).min()
    }

    /// A live look says that it holds; it is looked at again after `pause`.
    pub(crate) fn confirm(&mut self, key: &K, now: Instant, pause: Duration) {
        if let Some(held) = self.held.get_mut(key) {
            held.due = now + pause;
            held.is_confirmed = true;
        }
    }

    /// It has been announced, or nobody is left to hear of it. Returns for how long that has been so.
    pub(crate) fn announce(&mut self, key: &K, now: Instant) -> Duration {
        self.held.get_mut(key).map_or(Duration::ZERO, |held| now - *held.announced.get_or_insert(now))
    }

    /// A live look says that it doesn't hold: if it is seen all the same, its grace begins anew.
    pub(crate) fn refute(&mut self, key: &K, now: Instant) {
        if let Some(held) = self.held.get_mut(key) {
            *held = Held::new(now + self.grace);
        }
    }

    /// There was no answer, which says nothing: it is asked again after `pause`.
    pub(crate) fn postpone(&mut self, key: &K, now: Instant, pause: Duration) {
        if let Some(held) = self.held.get_mut(key) {
            held.due = now + pause;
        }
    }

    /// All that a live look has confirmed.
    pub(crate) fn confirmed(&self) -> impl Iterator<Item = &K> {
        self.held.iter().filter(|(_, held)| held.is_confirmed).map(|(key, _)| key)
    }

    /// How many hold, confirmed or not.
    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_mins(5);
    const SECOND: Duration = Duration::from_secs(1);

    fn all(keys: &[&'static str]) -> HashSet<&'static str> {
        keys.iter().copied().collect()
    }

    #[test]
    fn only_what_held_all_the_time_is_due() {
        let start = Instant::now();
        let mut graces = Graces::new(GRACE);
        graces.observe(start, all(&["a", "b"]));
        graces.observe(start + SECOND, all(&["a"]));
        graces.observe(start + 2 * SECOND, all(&["a", "b"]));
        assert!(graces.due(start + GRACE - SECOND).is_empty());
        assert_eq!(graces.next(), Some(start + GRACE));
        assert_eq!(graces.due(start + GRACE), ["a"]);
        assert_eq!(graces.len(), 2);
    }

    #[test]
    fn a_contradiction_begins_the_grace_anew_and_no_answer_only_waits() {
        let start = Instant::now();
        let mut graces = Graces::new(GRACE);
        graces.observe(start, all(&["a"]));
        let now = start + GRACE;
        graces.postpone(&"a", now, SECOND);
        assert!(graces.due(now).is_empty());
        assert_eq!(graces.due(now + SECOND), ["a"]);
        graces.refute(&"a", now);
        assert_eq!(graces.next(), Some(now + GRACE));
    }

    #[test]
    fn what_is_confirmed_and_announced_is_so_until_it_is_refuted() {
        let start = Instant::now();
        let mut graces = Graces::new(GRACE);
        graces.observe(start, all(&["a"]));
        graces.confirm(&"a", start, SECOND);
        assert_eq!(graces.confirmed().count(), 1);
        assert_eq!(graces.due(start + SECOND), ["a"]);
        let told = start + SECOND;
        assert_eq!(graces.announce(&"a", told), Duration::ZERO);
        graces.postpone(&"a", told + SECOND, SECOND);
        assert_eq!(graces.announce(&"a", told + GRACE), GRACE);
        graces.refute(&"a", told + GRACE);
        assert_eq!(graces.confirmed().count(), 0);
        assert_eq!(graces.announce(&"a", told + 2 * GRACE), Duration::ZERO);
        assert_eq!(graces.announce(&"gone", start), Duration::ZERO);
    }
}
