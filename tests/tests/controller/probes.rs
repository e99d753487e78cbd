//! The probes' port, whoever else comes there.
use std::time::{Duration, Instant};

use aliquot_tests::{controllers::Stage, testbed::Result};
use tokio::net::TcpStream;

use super::PATIENT;

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_ask_for_nothing_keep_no_probe_from_its_answer() -> Result<()> {
    let stage = Stage::start().await?;
    let replica = stage.replica("a", &PATIENT)?;
    replica.ready().await?;
    let address = replica.address().ok_or("the log names no address")?;
    let mut idle = Vec::new();
    for _ in 0..80 {
        idle.push(TcpStream::connect(&address).await?);
    }
    let begun = Instant::now();
    assert_eq!(replica.get("/healthz").await?.0, 200);
    // The kubelet's patience, by deploy/base/controller.yaml.
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    Ok(())
}
