//! What each step of a try on a cluster showed, and their sum.
use std::fmt;

/// A step.
#[derive(Debug)]
pub struct Step {
    title: String,
    told: Vec<String>,
    failed: Vec<String>,
}

impl Step {
    /// One with nothing done yet.
    pub(crate) fn new(title: &str) -> Self {
        Self { title: title.to_owned(), told: Vec::new(), failed: Vec::new() }
    }

    /// One whose body's error is a failure.
    pub(crate) async fn taken<E: std::error::Error + 'static>(
        title: &str,
        body: impl AsyncFnOnce(&mut Self) -> Result<(), E>,
    ) -> Self {
        let mut step = Self::new(title);
        if let Err(error) = body(&mut step).await {
            step.fail(aliquot_daemon::report(&error));
        }
        step
    }

    /// Tells what was done or seen.
    pub(crate) fn tell(&mut self, what: impl fmt::Display) {
        self.told.extend(what.to_string().lines().map(ToOwned::to_owned));
    }

    /// Something that must not be so.
    pub(crate) fn fail(&mut self, why: impl fmt::Display) {
        self.failed.push(why.to_string());
    }

    /// What a judgement found, if it found fault.
    pub(crate) fn hold(&mut self, judgement: Result<(), String>) {
        self.failed.extend(judgement.err());
    }

    /// Whether what was expected came.
    pub fn passed(&self) -> bool {
        self.failed.is_empty()
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        for line in &self.told {
            writeln!(f, "  {line}")?;
        }
        for why in &self.failed {
            writeln!(f, "  FAIL: {why}")?;
        }
        if self.passed() { writeln!(f, "  PASS") } else { Ok(()) }
    }
}

/// All steps.
#[derive(Debug, Default)]
pub struct Report {
    /// In the order in which they were taken.
    pub steps: Vec<Step>,
}

impl Report {
    /// Whether all did, and there were any.
    pub fn passed(&self) -> bool {
        !self.steps.is_empty() && self.steps.iter().all(Step::passed)
    }

    /// The last line.
    pub fn sum(&self) -> String {
        let failed = self.steps.iter().filter(|step| !step.passed()).count();
        format!("steps {} failed {failed}", self.steps.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_finds_fault_fails_all_and_no_step_proves_nothing() {
        let mut report = Report::default();
        assert!(!report.passed());
        let mut step = Step::new("one");
        step.tell("a\nb");
        step.hold(Ok(()));
        assert_eq!(step.to_string(), "one\n  a\n  b\n  PASS\n");
        report.steps.push(step);
        assert!(report.passed());
        let mut step = Step::new("two");
        step.hold(Err("it is not".to_owned()));
        assert_eq!(step.to_string(), "two\n  FAIL: it is not\n");
        report.steps.push(step);
        assert!(!report.passed());
        assert_eq!(report.sum(), "steps 2 failed 1");
    }
}
