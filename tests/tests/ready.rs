//! The kubelet's probes: when a driver says that it is ready, and that it doesn't hang.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
use std::time::{Duration, Instant};

use aliquot_tests::testbed::{DRIVER, Result, Testbed};
use fake_apiserver::{Fault, Server, Trouble};
use tonic::{Code, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

/// Waits until the driver's answer on `path` has this status and these words.
async fn until_it_says(testbed: &Testbed, path: &str, status: &str, words: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let answer = testbed.get(path).await;
        if matches!(&answer, Ok(answer) if answer.starts_with(status) && answer.contains(words)) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("{path} is {answer:?}, and not {status} with {words:?}\n{}", testbed.log()).into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

const OK: &str = "HTTP/1.1 200";
const NOT_YET: &str = "HTTP/1.1 503";

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_is_ready_when_it_is_registered_and_has_published() -> Result<()> {
    let testbed = Testbed::start("h100x8").await?;
    until_it_says(&testbed, "/readyz", OK, "ok").await?;
    until_it_says(&testbed, "/healthz", OK, "ok").await?;
    until_it_says(&testbed, "/ready", "HTTP/1.1 404", "/readyz").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_may_not_publish_lives_and_says_what_is_missing() -> Result<()> {
    let mut testbed = Testbed::without_driver("h100x8", Server::builder()).await?;
    let (verb, resource) = ("create".to_owned(), "resourceslices".to_owned());
    testbed.api.inject(Fault { verb, resource, times: usize::MAX, trouble: Trouble::Error(403, None) });
    testbed.start_driver(&[])?;
    until_it_says(&testbed, "/readyz", NOT_YET, "published").await?;
    until_it_says(&testbed, "/healthz", OK, "ok").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_an_nvidia_driver_has_a_driver_that_is_ready() -> Result<()> {
    let mut testbed = Testbed::without_driver("h100x8", Server::builder()).await?;
    std::fs::remove_dir_all(testbed.node.path("driver/usr"))?;
    testbed.start_driver(&[])?;
    until_it_says(&testbed, "/readyz", OK, "ok").await
}

/// A client of the driver's health service, as the kubelet's `grpc` probe is one.
async fn health(testbed: &Testbed) -> Result<HealthClient<Channel>> {
    let address = Channel::from_shared(format!("http://{}", testbed.metrics_address()?))?;
    Ok(HealthClient::new(address.connect().await?))
}

async fn check(testbed: &Testbed, service: &str) -> Result<std::result::Result<ServingStatus, Code>> {
    let answer = health(testbed).await?.check(HealthCheckRequest { service: service.to_owned() }).await;
    Ok(answer.map(|answer| answer.get_ref().status()).map_err(|status| status.code()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_probe_hears_what_readyz_says() -> Result<()> {
    let mut testbed = Testbed::without_driver("h100x8", Server::builder()).await?;
    let (verb, resource) = ("create".to_owned(), "resourceslices".to_owned());
    testbed.api.inject(Fault { verb, resource, times: usize::MAX, trouble: Trouble::Error(503, None) });
    testbed.start_driver(&[])?;
    until_it_says(&testbed, "/readyz", NOT_YET, "published").await?;
    for service in ["", DRIVER] {
        assert_eq!(check(&testbed, service).await?, Ok(ServingStatus::NotServing), "{service:?}");
    }
    testbed.api.heal();
    testbed.ready().await?;
    until_it_says(&testbed, "/readyz", OK, "ok").await?;
    for service in ["", DRIVER] {
        assert_eq!(check(&testbed, service).await?, Ok(ServingStatus::Serving), "{service:?}");
    }
    assert_eq!(check(&testbed, "liveness").await?, Err(Code::NotFound));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_clients_take_no_place_for_longer_than_a_question() -> Result<()> {
    let testbed = Testbed::start("h100x8").await?;
    // More than there are places; they connect, and ask nothing.
    let mut idle = Vec::new();
    for _ in 0..64 {
        idle.push(tokio::time::timeout(Duration::from_secs(20), health(&testbed)).await??);
    }
    until_it_says(&testbed, "/readyz", OK, "ok").await?;
    // One that was sent away asks by another connection.
    let answer = idle[0].check(HealthCheckRequest::default()).await?;
    assert_eq!(answer.get_ref().status(), ServingStatus::Serving);
    let watched = idle[0].watch(HealthCheckRequest::default()).await;
    assert_eq!(watched.unwrap_err().code(), Code::Unimplemented);
    Ok(())
}
