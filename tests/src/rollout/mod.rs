//! Rolling updates of the driver on a real cluster, with pods that come and go all the while.
//!
//! Pods with whole GPUs and with shares are made without a pause, before, during and after each change of the DaemonSet. All
//! must start, and the kubelet must not have one prepare to report that failed. Two pods stay all the time, untouched.
mod change;
mod churn;
mod tally;

use std::time::Duration;

use aliquot_daemon::report;
use futures::future::join_all;
use tokio::sync::watch;

pub use crate::load::Error;
pub use change::DaemonSetName;
pub use tally::{Report, Tally};

use crate::load::{Kind, Stage};
use change::{Change, Rollout};

/// What is tried.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The driver's DaemonSet.
    pub daemon_set: DaemonSetName,
    /// Another image of the driver, to which it is changed, and back.
    pub other: Option<String>,
    /// The image of the pods: anything with `sh` and `sleep`.
    pub image: String,
    /// The namespace that is made for them.
    pub namespace: String,
    /// How many pods of each kind come and go at a time.
    pub workers: usize,
    /// How long pods come and go before the first change, and after each.
    pub settle: Duration,
    /// How long a pod may take to run or to be gone, and a change to be everywhere.
    pub patience: Duration,
}

/// Makes the changes, one after the other, and tells each with what became of the pods that were made meanwhile.
///
/// Whatever happens, the DaemonSet has its image again at the end, and the namespace is deleted.
///
/// # Errors
///
/// What kept it from finding out.
pub async fn run(
    client: kube::Client,
    plan: &Plan,
    stop: impl Future<Output = ()>,
    told: impl Fn(&str),
) -> Result<Report, Error> {
    let rollout = Rollout::of(client.clone(), &plan.daemon_set, plan.patience).await?;
    let stage = Stage::open(client, &plan.namespace, plan.patience).await?;
    let result = tokio::select! {
        result = changes(plan, &stage, &rollout, &told) => result,
        () = stop => Err(Error::Stopped),
    };
    let restored = rollout.restore().await;
    let closed = stage.close().await;
    let report = result?;
    restored?;
    closed?;
    Ok(report)
}

async fn changes(plan: &Plan, stage: &Stage, rollout: &Rollout, told: &impl Fn(&str)) -> Result<Report, Error> {
    let kept = stage.keep(&plan.image).await?;
    let mut changes = vec![Change::None, Change::Restart];
    if let Some(other) = &plan.other {
        changes.push(Change::Image(other.clone()));
        changes.push(Change::Image(rollout.image().to_owned()));
    }
    let (phase, phases) = watch::channel(Some(0));
    let workers = Kind::ALL.into_iter().flat_map(|kind| (0..plan.workers).map(move |number| (kind, number)));
    let workers =
        join_all(workers.map(|(kind, number)| churn::churn(stage, kind, number, plan.image.as_str(), phases.clone())));
    let made = async {
        let mut made = Vec::new();
        for (number, change) in changes.iter().enumerate() {
            phase.send_replace(Some(number));
            told(&change.to_string());
            let begun = tokio::time::Instant::now();
            let outcome = rollout.make(change).await.map_err(|error| report(&error));
            let failed = outcome.is_err();
            made.push((change.to_string(), outcome.map(|()| begun.elapsed())));
            // What pods did meanwhile counts all the same.
            if failed {
                break;
            }
            tokio::time::sleep(plan.settle).await;
        }
        phase.send_replace(None);
        made
    };
    let (made, pods) = futures::join!(made, workers);
    let mut report = Report::new(made);
    for pod in pods.into_iter().flatten() {
        report.add(pod);
    }
    report.touched = stage.touched(&kept).await?;
    report.warnings = stage.warnings().await?;
    Ok(report)
}
