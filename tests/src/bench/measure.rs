//! The measurements of one driver's socket, one after the other.
use std::time::{Duration, Instant};

use kubelet_api::dra::v1::Claim;

use super::{Driver, Floor, Report, SocketError, floor};

/// How much is measured.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Single prepares.
    pub singles: usize,
    /// Claims that stay prepared while more are measured.
    pub standing: usize,
}

impl Default for Plan {
    fn default() -> Self {
        Self { singles: 1000, standing: 1000 }
    }
}

impl Plan {
    /// The claims that a run needs.
    pub fn claims(&self) -> usize {
        self.standing + MORE
    }
}

/// Claims besides those that stand.
const MORE: usize = 100;
const WARM_UP: usize = 50;

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The driver.
    #[error(transparent)]
    Driver(#[from] SocketError),
    /// The floor.
    #[error("the floor can't be measured")]
    Floor(#[from] floor::Error),
    /// Too few claims.
    #[error("{given} claims were given, but {needed} are needed")]
    Claims {
        /// In the file.
        given: usize,
        /// By the plan.
        needed: usize,
    },
    /// A task of the measurement died.
    #[error("a measurement broke off")]
    Task(#[from] tokio::task::JoinError),
}

/// Prepares and unprepares `claims` in every way; afterwards none is prepared.
pub async fn prepare(
    driver: &mut Driver,
    floor: Option<&Floor>,
    claims: &[Claim],
    plan: &Plan,
    report: &mut Report,
) -> Result<(), Error> {
    let needed = plan.claims();
    let (Some(standing), Some(more)) = (claims.get(..plan.standing), claims.get(plan.standing..needed)) else {
        return Err(Error::Claims { given: claims.len(), needed });
    };
    for claim in more.iter().cycle().take(WARM_UP) {
        let claim = std::slice::from_ref(claim);
        driver.prepare(claim).await?;
        driver.unprepare(claim).await?;
    }
    let floors = match floor {
        Some(floor) => Some(sorted(floor_times(floor, more, plan.singles).await?)),
        None => None,
    };
    let at = |share: usize| floors.as_ref().map(|times| percentile(times, share));

    let (prepares, unprepares) = singles(driver, more, plan.singles).await?;
    let (median, slowest) = (percentile(&prepares, 50), percentile(&prepares, 99));
    report.add("prepare_p50", "ms", percentile(&prepares, 50), at(50), Some(2.5));
    report.add("prepare_p99", "ms", percentile(&prepares, 99), at(99), Some(5.0));
    report.add("unprepare_p50", "ms", percentile(&unprepares, 50), None, Some(1.0));

    let again = again(driver, more).await?;
    report.add("prepare_again_p50", "ms", percentile(&again, 50), None, Some(0.3));
    let eights = batches(driver, more).await?;
    report.add("prepare_8_in_one_call", "ms", percentile(&eights, 50), at(50).map(|floor| floor * 8.0), Some(10.0));
    let hundreds = hundreds(driver, more).await?;
    report.add("prepare_100_at_once", "ms", percentile(&hundreds, 50), at(50).map(|floor| floor * 100.0), Some(100.0));

    for claim in standing {
        driver.prepare(std::slice::from_ref(claim)).await?;
    }
    let (prepares, _) = singles(driver, more, plan.singles).await?;
    report.add("prepare_p50_at_1000", "ms", percentile(&prepares, 50), at(50), Some(median * 1.2));
    report.add("prepare_p99_at_1000", "ms", percentile(&prepares, 99), at(99), Some(slowest * 1.2));
    for claim in standing {
        driver.unprepare(std::slice::from_ref(claim)).await?;
    }
    if let Some((resident, anonymous)) = driver.memory() {
        report.add("rss_after_1000", "MiB", mebibytes(resident), None, Some(14.0));
        report.add("rss_anonymous_after_1000", "MiB", mebibytes(anonymous), None, Some(4.0));
    }
    Ok(())
}

/// KiB as MiB.
#[allow(clippy::cast_precision_loss, reason = "a process has far less than 2^52 KiB")]
pub(super) fn mebibytes(kibibytes: u64) -> f64 {
    kibibytes as f64 / 1024.0
}

async fn floor_times(floor: &Floor, claims: &[Claim], count: usize) -> Result<Vec<f64>, Error> {
    for claim in claims.iter().take(WARM_UP) {
        floor.prepare(claim).await?;
    }
    let mut times = Vec::with_capacity(count);
    for claim in claims.iter().cycle().take(count) {
        let begun = Instant::now();
        floor.prepare(claim).await?;
        times.push(milliseconds(begun.elapsed()));
    }
    Ok(times)
}

async fn singles(driver: &mut Driver, claims: &[Claim], count: usize) -> Result<(Vec<f64>, Vec<f64>), Error> {
    let (mut prepares, mut unprepares) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for claim in claims.iter().cycle().take(count) {
        let claim = std::slice::from_ref(claim);
        let begun = Instant::now();
        driver.prepare(claim).await?;
        prepares.push(milliseconds(begun.elapsed()));
        let begun = Instant::now();
        driver.unprepare(claim).await?;
        unprepares.push(milliseconds(begun.elapsed()));
    }
    Ok((sorted(prepares), sorted(unprepares)))
}

async fn again(driver: &mut Driver, claims: &[Claim]) -> Result<Vec<f64>, Error> {
    let claim = claims.get(..1).unwrap_or_default();
    driver.prepare(claim).await?;
    let mut times = Vec::new();
    for _ in 0..500 {
        let begun = Instant::now();
        driver.prepare(claim).await?;
        times.push(milliseconds(begun.elapsed()));
    }
    driver.unprepare(claim).await?;
    Ok(sorted(times))
}

async fn batches(driver: &mut Driver, claims: &[Claim]) -> Result<Vec<f64>, Error> {
    let mut times = Vec::new();
    for eight in claims.chunks_exact(8).cycle().take(50) {
        let begun = Instant::now();
        driver.prepare(eight).await?;
        times.push(milliseconds(begun.elapsed()));
        driver.unprepare(eight).await?;
    }
    Ok(sorted(times))
}

async fn hundreds(driver: &mut Driver, claims: &[Claim]) -> Result<Vec<f64>, Error> {
    let mut times = Vec::new();
    for _ in 0..10 {
        let begun = Instant::now();
        let calls: Vec<_> = claims
            .iter()
            .take(100)
            .cloned()
            .map(|claim| {
                let mut driver = driver.clone();
                tokio::spawn(async move { driver.prepare(&[claim]).await })
            })
            .collect();
        for call in calls {
            call.await??;
        }
        times.push(milliseconds(begun.elapsed()));
        driver.unprepare(claims.get(..100).unwrap_or(claims)).await?;
    }
    Ok(sorted(times))
}

pub(super) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

pub(super) fn sorted(mut times: Vec<f64>) -> Vec<f64> {
    times.sort_by(f64::total_cmp);
    times
}

/// The value below which `share` percent of sorted times lie.
pub(super) fn percentile(times: &[f64], share: usize) -> f64 {
    let at = (times.len() * share / 100).min(times.len().saturating_sub(1));
    times.get(at).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_times() {
        let times: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let times = sorted(times);
        assert!((percentile(&times, 50) - 51.0).abs() < f64::EPSILON);
        assert!((percentile(&times, 99) - 100.0).abs() < f64::EPSILON);
        assert!(percentile(&[], 50).abs() < f64::EPSILON);
    }
}
