//! `cargo xtask crash-matrix`: the driver ended, stopped and failed at each point where it changes something, counted.
use aliquot_driver::fault::Point;
use clap::Args;

use super::{Error, build};
use crate::crash::{self, Churn, Plan, Way};

/// Options of `cargo xtask crash-matrix`.
#[derive(Debug, Args)]
pub(super) struct CrashMatrix {
    /// Only these points, such as record-placed,spec-begun.
    #[arg(long, value_delimiter = ',', value_parser = point)]
    points: Vec<Point>,
    /// Only these ways, such as kill,reboot.
    #[arg(long, value_delimiter = ',', value_parser = way)]
    ways: Vec<Way>,
    /// Instead of the matrix, this many claims that come and go in any order while drivers are killed and replaced at any
    /// moment.
    #[arg(long, conflicts_with_all = ["points", "ways"])]
    claims: Option<usize>,
    /// Where all choices of that come from.
    #[arg(long, default_value_t = 1, requires = "claims")]
    seed: u64,
    /// Nodes at a time.
    #[arg(long, default_value_t = 4)]
    lanes: usize,
}

impl CrashMatrix {
    /// Runs, and prints points and outcomes; the last line is the sum.
    pub(super) fn run(self) -> Result<(), Error> {
        if !cfg!(debug_assertions) {
            return Err(Error::Broke("release builds have no points: run it without --release".into()));
        }
        build()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.map_err(|source| Error::Io { what: "start a runtime".to_owned(), source })?;
        let bad = || Error::Broke("what is told above must not be".into());
        if let Some(claims) = self.claims {
            let sum = runtime.block_on(crash::churn(Churn { seed: self.seed, claims })).map_err(Error::Broke)?;
            print!("{sum}");
            return if sum.is_good() { Ok(()) } else { Err(bad()) };
        }
        let mut plan = Plan { lanes: self.lanes.max(1), ..Plan::everything() };
        if !self.points.is_empty() {
            plan.points = self.points;
        }
        if !self.ways.is_empty() {
            plan.ways = self.ways;
        }
        let tally = runtime.block_on(crash::run(&plan)).map_err(Error::Broke)?;
        print!("{tally}");
        if tally.is_good() { Ok(()) } else { Err(bad()) }
    }
}

fn point(name: &str) -> Result<Point, String> {
    let names = || Point::ALL.iter().map(|point| point.name()).collect::<Vec<_>>().join(", ");
    let known = Point::ALL.iter().find(|point| point.name() == name);
    known.copied().ok_or_else(|| format!("the points are {}", names()))
}

fn way(name: &str) -> Result<Way, String> {
    let names = || Way::ALL.iter().map(|way| way.name()).collect::<Vec<_>>().join(", ");
    let known = Way::ALL.iter().find(|way| way.name() == name);
    known.copied().ok_or_else(|| format!("the ways are {}", names()))
}
