//! Calls of the kubelet: how many, how long, and why claims failed.
use aliquot_tests::testbed::{Result, Testbed};
use kubelet_api::dra::v1::Claim;

use crate::scene::{Series, until, value};

const PREPARE: (&str, &str) = ("method", "prepare");

#[tokio::test(flavor = "multi_thread")]
async fn each_call_is_measured_and_each_claim_that_fails_is_counted_by_why() -> Result<()> {
    let testbed = Testbed::start("h100x8").await?;
    let claim = testbed.allocated("claim", &[("gpu", "gpu-0000-1b-00")]).await?;
    testbed.prepare(&claim).await??;
    let odd = testbed.allocated("odd", &[("gpu", "gpu-ffff-00-00")]).await?;
    testbed.prepare(&odd).await?.unwrap_err();
    let invalid = Claim { namespace: "../..".to_owned(), name: "x".to_owned(), uid: "u".to_owned() };
    testbed.prepare(&invalid).await?.unwrap_err();
    let elsewhere = Claim { uid: "another".to_owned(), ..claim.clone() };
    testbed.prepare(&elsewhere).await?.unwrap_err();
    let slices = |all: &[Series]| value(all, "aliquot_slices_published", &[]) == Some(2.0);
    let all = until(&testbed, "the slices are published", slices).await?;
    assert_eq!(value(&all, "aliquot_dra_request_duration_seconds_count", &[PREPARE]), Some(4.0));
    assert_eq!(value(&all, "aliquot_dra_request_duration_seconds_count", &[("method", "unprepare")]), Some(0.0));
    assert_eq!(value(&all, "aliquot_dra_requests_in_flight", &[PREPARE]), Some(0.0));
    let errors = |reason| value(&all, "aliquot_dra_errors_total", &[PREPARE, ("reason", reason)]);
    let reasons = ["refused", "invalid", "claim", "unready", "late", "cancelled", "internal"];
    assert_eq!(reasons.map(errors), [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0].map(Some));
    let buckets: Vec<_> = all
        .iter()
        .filter(|series| series.name == "aliquot_dra_request_duration_seconds_bucket" && series.has(&[PREPARE]))
        .map(|series| series.labels["le"].as_str())
        .collect();
    assert_eq!((buckets.first(), buckets.last()), (Some(&"0.0001"), Some(&"+Inf")));
    assert!(buckets.contains(&"45.0"), "{buckets:?}");
    assert_eq!(value(&all, "aliquot_registered", &[]), Some(1.0));
    assert!(value(&all, "aliquot_slices_writes_total", &[]) >= Some(2.0));
    Ok(())
}
