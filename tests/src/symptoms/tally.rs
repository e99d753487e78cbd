//! What was seen of each symptom.
use std::{fmt, time::Duration};

/// A symptom that showed itself as the page has it.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    pub(super) symptom: String,
    /// The kind and name of what it was told of.
    pub(super) on: String,
    pub(super) note: String,
    pub(super) after: Duration,
}

/// One symptom's outcome.
#[derive(Debug)]
pub enum Outcome {
    /// It was told as the page has it, and was over once it was mended.
    Seen(String),
    /// It wasn't.
    Missed(String),
    /// It can't be provoked here.
    Out(String),
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} | {} | {:.1} s | {}", self.symptom, self.on, self.after.as_secs_f64(), self.note)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seen(what) => write!(f, "seen    {what}"),
            Self::Missed(what) => write!(f, "MISSED  {what}"),
            Self::Out(what) => write!(f, "left    {what}"),
        }
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct Report(Vec<Outcome>);

impl Report {
    pub(super) fn add(&mut self, outcome: Outcome) {
        self.0.push(outcome);
    }

    fn count(&self, is: impl Fn(&Outcome) -> bool) -> usize {
        self.0.iter().filter(|outcome| is(outcome)).count()
    }

    /// Whether all that were provoked were seen, and any were.
    pub fn is_good(&self) -> bool {
        self.count(|outcome| matches!(outcome, Outcome::Seen(_))) > 0
            && self.count(|outcome| matches!(outcome, Outcome::Missed(_))) == 0
    }

    /// The last line.
    pub fn sum(&self) -> String {
        let seen = self.count(|outcome| matches!(outcome, Outcome::Seen(_)));
        let missed = self.count(|outcome| matches!(outcome, Outcome::Missed(_)));
        format!("symptoms {} seen {seen} missed {missed}", seen + missed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_was_missed_is_a_failure_and_none_at_all_is_none_seen() {
        let mut report = Report::default();
        assert!(!report.is_good());
        report.add(Outcome::Out("a: no".to_owned()));
        assert!(!report.is_good());
        report.add(Outcome::Seen("b".to_owned()));
        assert!(report.is_good());
        report.add(Outcome::Missed("c: none came".to_owned()));
        assert!(!report.is_good());
        assert_eq!(report.sum(), "symptoms 2 seen 1 missed 1");
    }
}
