//! What became of the pods, by the change during which they were made.
use std::{collections::BTreeMap, fmt, time::Duration};

/// What the kubelet says of a claim that can't be prepared.
const FAILED: &str = "FailedPrepareDynamicResources";

/// A pod that was made.
#[derive(Debug, Clone)]
pub(super) struct Made {
    /// During which change.
    pub(super) change: usize,
    pub(super) name: String,
    /// From the request until it ran, or why it never did.
    pub(super) started: Result<Duration, String>,
}

/// The pods of one change.
#[derive(Debug, Clone)]
pub struct Tally {
    what: String,
    /// Or why it never was everywhere.
    took: Result<Duration, String>,
    started: Vec<Duration>,
}

/// All changes.
#[derive(Debug, Default)]
pub struct Report {
    changes: Vec<Tally>,
    failures: Vec<String>,
    /// Pods that were to run all the time and didn't.
    pub(super) touched: Vec<String>,
    /// How many warnings of each reason were told of the pods.
    pub(super) warnings: BTreeMap<String, u64>,
}

impl Report {
    /// One without pods, of these changes and the time that they took, or why they failed.
    pub(super) fn new(changes: impl IntoIterator<Item = (String, Result<Duration, String>)>) -> Self {
        let changes = changes.into_iter().map(|(what, took)| Tally { what, took, started: Vec::new() });
        Self { changes: changes.collect(), ..Self::default() }
    }

    pub(super) fn add(&mut self, pod: Made) {
        match (pod.started, self.changes.get_mut(pod.change)) {
            (Ok(took), Some(change)) => change.started.push(took),
            (Ok(_), None) => {}
            (Err(why), change) => {
                let during = change.map(|change| change.what.clone()).unwrap_or_default();
                self.failures.push(format!("{} ({during}): {why}", pod.name));
            }
        }
    }

    fn failed_prepares(&self) -> u64 {
        self.warnings.get(FAILED).copied().unwrap_or_default()
    }

    /// Whether pods were made during every change, all of them started, and nothing failed meanwhile.
    pub fn is_good(&self) -> bool {
        let is_tried = |change: &Tally| change.took.is_ok() && !change.started.is_empty();
        let all_tried = !self.changes.is_empty() && self.changes.iter().all(is_tried);
        all_tried && self.failures.is_empty() && self.touched.is_empty() && self.failed_prepares() == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:>8}{:>10}{:>11}  change", "started", "median ms", "slowest ms")?;
        for change in &self.changes {
            let mut started = change.started.clone();
            started.sort();
            let median = started.get(started.len() / 2).copied().unwrap_or_default();
            let slowest = started.last().copied().unwrap_or_default();
            write!(f, "{:>8}{:>10}{:>11}  {} ", started.len(), median.as_millis(), slowest.as_millis(), change.what)?;
            match &change.took {
                Ok(took) => writeln!(f, "({:.1} s)", took.as_secs_f64())?,
                Err(why) => writeln!(f, "FAILED: {why}")?,
            }
        }
        for failure in &self.failures {
            writeln!(f, "NOT STARTED: {failure}")?;
        }
        for pod in &self.touched {
            writeln!(f, "TOUCHED: {pod}")?;
        }
        for (reason, count) in &self.warnings {
            writeln!(f, "warning {reason}: {count}")?;
        }
        let started: usize = self.changes.iter().map(|change| change.started.len()).sum();
        let slowest = self.changes.iter().flat_map(|change| &change.started).max().copied().unwrap_or_default();
        writeln!(
            f,
            "pods {} started {started} slowest {} ms failed prepares {}",
            started + self.failures.len(),
            slowest.as_millis(),
            self.failed_prepares()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(change: usize, started: Result<u64, &str>) -> Made {
        let started = started.map(Duration::from_millis).map_err(ToOwned::to_owned);
        Made { change, name: "whole-1".to_owned(), started }
    }

    #[test]
    fn the_last_line_is_the_sum_and_a_change_without_pods_proves_nothing() {
        let changes = ["no change", "restart"].map(|what| (what.to_owned(), Ok(Duration::from_secs(2))));
        let mut report = Report::new(changes);
        report.add(made(0, Ok(900)));
        assert!(!report.is_good());
        report.add(made(1, Ok(1200)));
        assert!(report.is_good());
        let text = report.to_string();
        assert!(text.contains("       1      1200       1200  restart (2.0 s)\n"), "{text}");
        assert_eq!(text.lines().last(), Some("pods 2 started 2 slowest 1200 ms failed prepares 0"));
    }

    #[test]
    fn a_change_that_was_never_everywhere_is_a_failure_and_its_pods_are_counted() {
        let mut report = Report::new([("image b".to_owned(), Err("it isn't ready".to_owned()))]);
        report.add(made(0, Ok(700)));
        assert!(!report.is_good());
        assert!(report.to_string().contains("       1       700        700  image b FAILED: it isn't ready\n"));
        assert!(report.to_string().ends_with("pods 1 started 1 slowest 700 ms failed prepares 0\n"));
    }

    #[test]
    fn a_pod_that_never_ran_a_failed_prepare_and_a_touched_pod_are_failures_each() {
        let good = || {
            let mut report = Report::new([("restart".to_owned(), Ok(Duration::ZERO))]);
            report.add(made(0, Ok(1)));
            report
        };
        let mut report = good();
        report.add(made(0, Err("it took too long")));
        assert!(!report.is_good());
        assert!(report.to_string().contains("NOT STARTED: whole-1 (restart): it took too long\n"));
        assert!(report.to_string().ends_with("pods 2 started 1 slowest 1 ms failed prepares 0\n"));
        let mut report = good();
        report.warnings.insert(FAILED.to_owned(), 3);
        assert!(!report.is_good() && report.to_string().ends_with("failed prepares 3\n"));
        let mut report = good();
        report.touched.push("kept-whole".to_owned());
        assert!(!report.is_good());
    }
}
