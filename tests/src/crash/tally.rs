//! What was tried at which point, and what came of it.
use std::{collections::BTreeMap, fmt};

use aliquot_driver::fault::Point;

use super::{check::Wrong, ways::Way};

/// The outcomes of all runs.
#[derive(Debug, Default)]
pub struct Tally {
    /// Runs and failures, by point and way.
    cells: BTreeMap<(Point, Way), (usize, usize)>,
    runs: usize,
    leaked: usize,
    double: usize,
    lost: usize,
    failures: Vec<String>,
    unreached: Vec<Point>,
}

impl Tally {
    /// Counts one run.
    pub(super) fn add(
        &mut self,
        (point, way): (Point, Way),
        run: &str,
        outcome: Result<(), Box<dyn std::error::Error + Send + Sync>>,
    ) {
        let cell = self.cells.entry((point, way)).or_default();
        cell.0 += 1;
        self.runs += 1;
        let Err(error) = outcome else { return };
        cell.1 += 1;
        match error.downcast_ref::<Wrong>() {
            Some(Wrong::Leaked(_)) => self.leaked += 1,
            Some(Wrong::Double(_)) => self.double += 1,
            // Where there was no answer, there is no claim.
            Some(Wrong::Lost(_)) | None => self.lost += 1,
        }
        self.failures.push(format!("{run}: {error}"));
    }

    /// A point of which nothing is known is no good one.
    pub(super) fn demand(&mut self, points: &[Point]) {
        let is_reached = |point: &Point| self.cells.keys().any(|(reached, _)| reached == point);
        self.unreached = points.iter().copied().filter(|point| !is_reached(point)).collect();
    }

    /// Whether everything was tried, and nothing was wrong.
    pub fn is_good(&self) -> bool {
        self.failures.is_empty() && self.unreached.is_empty() && self.runs > 0
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:24}", "point")?;
        for way in Way::ALL {
            write!(f, "{:>8}", way.name())?;
        }
        writeln!(f)?;
        for point in Point::ALL.iter().filter(|point| self.cells.keys().any(|(reached, _)| reached == *point)) {
            write!(f, "{:24}", point.name())?;
            for way in Way::ALL {
                let cell = match self.cells.get(&(*point, way)) {
                    None => "-".to_owned(),
                    Some((runs, 0)) => format!("{runs}"),
                    Some((runs, bad)) => format!("{bad}!/{runs}"),
                };
                write!(f, "{cell:>8}")?;
            }
            writeln!(f)?;
        }
        for failure in &self.failures {
            writeln!(f, "WRONG: {failure}")?;
        }
        for point in &self.unreached {
            writeln!(f, "NEVER REACHED: {}", point.name())?;
        }
        let points = self.cells.keys().map(|(point, _)| point).collect::<std::collections::BTreeSet<_>>().len();
        writeln!(
            f,
            "points {points} runs {} leaked {} double {} lost {}",
            self.runs, self.leaked, self.double, self.lost
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_the_sum_and_what_was_never_reached_is_a_failure() {
        let mut tally = Tally::default();
        assert!(!tally.is_good());
        tally.add((Point::Reserved, Way::Kill), "a", Ok(()));
        tally.demand(&[Point::Reserved]);
        assert!(tally.is_good());
        assert_eq!(tally.to_string().lines().last(), Some("points 1 runs 1 leaked 0 double 0 lost 0"));
        tally.demand(Point::ALL);
        assert!(!tally.is_good() && tally.to_string().contains("NEVER REACHED: record-placed"));
        tally.add((Point::Reserved, Way::Kill), "b", Err(Wrong::Leaked("x".into()).into()));
        tally.add((Point::Reserved, Way::Pair), "c", Err("no answer".into()));
        assert_eq!(tally.to_string().lines().last(), Some("points 1 runs 3 leaked 1 double 0 lost 1"));
        assert!(tally.to_string().contains("WRONG: b: leaked: x"));
    }
}
