//! The kubelet's probes: when a driver says that it is ready, and that it doesn't hang.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
use std::time::{Duration, Instant};

use aliquot_tests::testbed::{Result, Testbed};
use fake_apiserver::{Fault, Server, Trouble};

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
