//! The driver of this build on an embedded default: simulated GPUs and the stand-ins.
use std::time::{Duration, Instant};

use fake_apiserver::Server;
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};
use kubelet_api::dra::v1::Claim;

use super::{Driver, Floor, Plan, Report, claims, hook, measure, shares};
use crate::testbed::{DRIVER, Result, Testbed};

/// How often the driver is started to see how long that takes.
const STARTS: usize = 10;
/// How long the driver is left alone to see what it writes.
const REST: Duration = Duration::from_secs(10);

/// Measures everything that the project promises of a node.
pub async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    let mut testbed = Testbed::without_driver("h100x8", Server::builder()).await?;
    starts(&mut testbed, report).await?;

    testbed.start_driver(&[])?;
    testbed.ready().await?;
    let socket = testbed.node.path("kubelet/plugins").join(DRIVER).join("dra.sock");
    let mut driver = Driver::connect(&socket).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    if let Some((resident, anonymous)) = driver.memory() {
        report.add("rss_idle", "MiB", measure::mebibytes(resident), None, Some(11.0));
        report.add("rss_anonymous_idle", "MiB", measure::mebibytes(anonymous), None, None);
    }
    let made = claims::make(&testbed.client, DRIVER, plan.claims()).await?;
    let claims: Vec<Claim> = made.iter().map(Into::into).collect();
    let files = tempfile::Builder::new().prefix("aliquot-floor").tempdir()?;
    let floor = Floor::new(testbed.client.clone(), files.path().to_owned());
    measure::prepare(&mut driver, Some(&floor), &claims, plan, report).await?;

    shares::run(&testbed, &mut driver, report).await?;

    let before = testbed.api.writes();
    tokio::time::sleep(REST).await;
    #[allow(clippy::cast_precision_loss, reason = "a handful")]
    report.add("api_writes_at_rest", "writes", (testbed.api.writes() - before) as f64, None, Some(0.0));
    hook::run(report).await
}

/// From the start of the process to the slices that a client sees.
async fn starts(testbed: &mut Testbed, report: &mut Report) -> Result<()> {
    let slices: Api<k8s_openapi::api::resource::v1::ResourceSlice> = Api::all(testbed.client.clone());
    let mut times = Vec::new();
    for _ in 0..STARTS {
        let begun = Instant::now();
        testbed.start_driver(&[])?;
        while testbed.whole().len() < 8 {
            if begun.elapsed() > Duration::from_secs(10) {
                return Err(format!("the driver published nothing\n{}", testbed.log()).into());
            }
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        times.push(measure::milliseconds(begun.elapsed()));
        testbed.stop_driver()?;
        slices.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
    }
    let times = measure::sorted(times);
    report.add("start_to_slices", "ms", measure::percentile(&times, 50), None, Some(250.0));
    Ok(())
}
