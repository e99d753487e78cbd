//! What was tried, and what came of it.
use std::{collections::BTreeMap, fmt};

use super::kinds::Kind;

/// The sum over all containers.
#[derive(Debug, Default)]
pub struct Tally {
    /// Openings of devices that weren't the container's, and uses of names that weren't the pod's.
    pub attempts: u64,
    /// Those of them that succeeded, in words.
    pub reachable: Vec<String>,
    /// Containers that lack what they were promised, or that hold what they weren't, and checks that couldn't be made.
    pub faults: Vec<String>,
    /// Containers that were looked at.
    pub containers: u64,
    kinds: BTreeMap<Kind, Looked>,
    lines: Vec<String>,
}

/// How often containers of one kind were looked at, and what was attempted from them.
#[derive(Debug, Default)]
struct Looked {
    times: u64,
    attempts: u64,
}

impl Tally {
    /// Whether nothing was reachable and nothing was missing.
    pub fn is_isolated(&self) -> bool {
        self.reachable.is_empty() && self.faults.is_empty() && self.containers > 0
    }

    /// What follows is told under this name.
    pub(super) fn section(&mut self, name: &str) {
        self.lines.push(format!("{name}:"));
    }

    /// Tells something.
    pub(super) fn note(&mut self, what: impl fmt::Display) {
        self.lines.push(format!("  {what}"));
    }

    /// A look into a container of this kind, from which so much was attempted.
    pub(super) fn looked(&mut self, kind: Kind, attempts: u64) {
        let looked = self.kinds.entry(kind).or_default();
        looked.times += 1;
        looked.attempts += attempts;
    }

    /// One attempt, and whether it came to anything.
    pub(super) fn attempt(&mut self, what: impl fmt::Display, reached: bool) {
        self.attempts += 1;
        if reached {
            self.reachable.push(what.to_string());
        }
    }

    /// Something that isn't as it must be.
    pub(super) fn fault(&mut self, what: impl fmt::Display) {
        self.faults.push(what.to_string());
    }

    /// Adds another's sums.
    pub(super) fn add(&mut self, other: Self) {
        self.attempts += other.attempts;
        self.containers += other.containers;
        self.reachable.extend(other.reachable);
        self.faults.extend(other.faults);
        self.lines.extend(other.lines);
        for (kind, more) in other.kinds {
            let looked = self.kinds.entry(kind).or_default();
            looked.times += more.times;
            looked.attempts += more.attempts;
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.lines {
            writeln!(f, "{line}")?;
        }
        if !self.kinds.is_empty() {
            writeln!(f, "looks into containers, by what they are in their pods:")?;
        }
        for (kind, Looked { times, attempts }) in &self.kinds {
            writeln!(f, "  {kind}: {times}, {attempts} attempts")?;
        }
        for reached in &self.reachable {
            writeln!(f, "REACHABLE: {reached}")?;
        }
        for fault in &self.faults {
            writeln!(f, "FAULT: {fault}")?;
        }
        let (attempts, reachable, containers) = (self.attempts, self.reachable.len(), self.containers);
        writeln!(f, "attempts {attempts} reachable {reachable} containers {containers}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_the_sum_and_nothing_looked_at_proves_nothing() {
        let mut tally = Tally::default();
        assert!(!tally.is_isolated());
        tally.containers = 2;
        tally.attempt("a", false);
        assert!(tally.is_isolated());
        assert_eq!(tally.to_string().lines().last(), Some("attempts 1 reachable 0 containers 2"));
        let mut more = Tally::default();
        more.looked(Kind::Init, 3);
        more.looked(Kind::Init, 4);
        tally.add(more);
        assert!(tally.to_string().contains("  init containers: 2, 7 attempts\n"), "{tally}");
        tally.attempt("b", true);
        assert!(!tally.is_isolated() && tally.to_string().contains("REACHABLE: b\n"));
    }
}
