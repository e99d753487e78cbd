//! What one check has to say, and all of them together: as text, as JSON, and as an exit code.
use std::fmt::Write as _;

use serde::Serialize;

/// How a check ended; the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// Pods don't get GPUs, or not those that they should.
    Failed,
    /// It works, but not as well or not for as long as it could.
    Warning,
    /// It can't be judged here.
    Skipped,
    /// As it should be.
    Ok,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    /// Stays the same over versions.
    pub(super) name: &'static str,
    pub(super) verdict: Verdict,
    /// What was found, or why nothing was looked for.
    pub(super) found: String,
    /// What to do; of those that failed or warn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fix: Option<String>,
}

impl Check {
    pub(super) fn failed(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Failed, found: found.into(), fix: Some(fix.into()) }
    }

    pub(super) fn warning(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Warning, found: found.into(), fix: Some(fix.into()) }
    }

    pub(super) fn skipped(name: &'static str, reason: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Skipped, found: reason.into(), fix: None }
    }

    pub(super) fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Ok, found: found.into(), fix: None }
    }
}

/// How many there are of each verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
struct Summary {
    failed: usize,
    warnings: usize,
    skipped: usize,
    ok: usize,
}

/// All checks of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    api_version: &'static str,
    kind: &'static str,
    version: &'static str,
    driver: String,
    node: String,
    summary: Summary,
    checks: Vec<Check>,
}

impl Report {
    /// Sorted by verdict; of equal ones in the order in which they were made.
    pub(super) fn new(driver: &str, node: &str, mut checks: Vec<Check>) -> Self {
        checks.sort_by_key(|check| check.verdict);
        let count = |verdict| checks.iter().filter(|check| check.verdict == verdict).count();
        let summary = Summary {
            failed: count(Verdict::Failed),
            warnings: count(Verdict::Warning),
            skipped: count(Verdict::Skipped),
            ok: count(Verdict::Ok),
        };
        Self {
            api_version: "gpu.aliquot.dev/v1alpha1",
            kind: "DoctorReport",
            version: env!("CARGO_PKG_VERSION"),
            driver: driver.to_owned(),
            node: node.to_owned(),
            summary,
            checks,
        }
    }

    /// Whether a script may go on.
    pub(super) fn is_good(&self, strict: bool) -> bool {
        self.summary.failed == 0 && !(strict && self.summary.warnings > 0)
    }

    /// For people: a line for each check, its fix below it, and the sum.
    pub(super) fn text(&self) -> String {
        let width = self.checks.iter().map(|check| check.name.len()).max().unwrap_or_default();
        let mut text = String::new();
        for check in &self.checks {
            let verdict = match check.verdict {
                Verdict::Failed => "FAILED",
                Verdict::Warning => "WARNING",
                Verdict::Skipped => "skipped",
                Verdict::Ok => "ok",
            };
            let _ = writeln!(text, "{verdict:7}  {:width$}  {}", check.name, check.found);
            if let Some(fix) = &check.fix {
                let _ = writeln!(text, "{:7}  {:width$}  fix: {fix}", "", "");
            }
        }
        let Summary { failed, warnings, skipped, ok } = self.summary;
        let s = if warnings == 1 { "" } else { "s" };
        let _ = writeln!(text, "\n{}: {failed} failed, {warnings} warning{s}, {skipped} skipped, {ok} ok", self.node);
        text
    }
}

/// Some of many, in words: a list of a hundred tells no more than its beginning.
pub(super) fn some(names: &[String]) -> String {
    const MOST: usize = 4;
    match names.get(..MOST) {
        Some(first) if names.len() > MOST => format!("{} and {} more", first.join(", "), names.len() - MOST),
        _ => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let checks = vec![
            Check::ok("first", "good"),
            Check::skipped("second-one", "not here"),
            Check::warning("third", "hm", "look"),
            Check::failed("fourth", "bad", "mend it"),
            Check::ok("fifth", "good"),
        ];
        Report::new("gpu.aliquot.dev", "node1", checks)
    }

    #[test]
    fn the_worst_comes_first_with_its_fix() {
        let expected = "FAILED   fourth      bad\n                     fix: mend it\nWARNING  third       hm\n                     \
                        fix: look\nskipped  second-one  not here\nok       first       good\nok       fifth       good\n\n\
                        node1: 1 failed, 1 warning, 1 skipped, 2 ok\n";
        assert_eq!(report().text(), expected);
    }

    #[test]
    fn json_has_the_documented_fields_and_no_others() {
        let value = serde_json::to_value(report()).unwrap();
        let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&value), ["apiVersion", "checks", "driver", "kind", "node", "summary", "version"]);
        assert_eq!(keys(&value["summary"]), ["failed", "ok", "skipped", "warnings"]);
        assert_eq!(
            value["checks"][0],
            serde_json::json!({"name": "fourth", "verdict": "failed", "found": "bad", "fix": "mend it"})
        );
        assert_eq!(keys(&value["checks"][4]), ["found", "name", "verdict"]);
    }

    #[test]
    fn warnings_fail_only_where_they_are_to() {
        let with = |checks| Report::new("d", "n", checks);
        let warned = with(vec![Check::warning("a", "b", "c"), Check::skipped("d", "e")]);
        assert!(warned.is_good(false) && !warned.is_good(true));
        assert!(!report().is_good(false) && with(vec![]).is_good(true));
    }

    #[test]
    fn a_long_list_is_cut() {
        let names: Vec<String> = (0..6).map(|n| n.to_string()).collect();
        assert_eq!(some(&names), "0, 1, 2, 3 and 2 more");
        assert_eq!(some(&names[..4]), "0, 1, 2, 3");
    }
}
