//! Which of several replicas acts.
use aliquot_tests::{
    controllers::{Replica, Stage, claim, node, slice},
    testbed::{DRIVER, Result},
};
use fake_apiserver::{Fault, Trouble};
use serde_json::json;

use super::{FAST, PATIENT};

const LEADER: &str = "aliquot_controller_leader";
const STUCK: &str = "aliquot_controller_stuck_claims{state=\"reserved_for_gone_pods\"}";

async fn two(stage: &Stage, flags: &[&str]) -> Result<(Replica, Replica)> {
    let first = stage.replica("a", flags)?;
    first.until_metric(LEADER, 1.0).await?;
    let second = stage.replica("b", flags)?;
    second.ready().await?;
    Ok((first, second))
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_replicas_one_acts_and_the_other_takes_over_when_it_is_killed() -> Result<()> {
    let stage = Stage::start().await?;
    let (mut first, second) = two(&stage, &FAST).await?;
    stage.api.seed("resourceslices", [slice(DRIVER, "gone-1", "u1", &[])]);
    stage.until("the slice is gone", || stage.slices().is_empty()).await?;
    let deleted = "aliquot_controller_slices_deleted_total{reason=\"node_gone\"}";
    first.until_metric(deleted, 1.0).await?;
    assert_eq!((second.metric(deleted).await?, second.metric(LEADER).await?), (None, Some(0.0)));
    first.kill()?;
    stage.api.seed("resourceslices", [slice(DRIVER, "gone-2", "u2", &[])]);
    second.until_metric(LEADER, 1.0).await?;
    assert_eq!(stage.leader().as_deref(), Some("b"));
    second.until_metric(deleted, 1.0).await?;
    assert_eq!(stage.slices(), Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_ends_releases_the_lease() -> Result<()> {
    let stage = Stage::start().await?;
    let (mut first, second) = two(&stage, &["--slice-grace=10m", "--lease-duration=15s"]).await?;
    let begun = std::time::Instant::now();
    assert!(first.stop()?.success());
    assert_eq!(stage.leader(), None, "{}", first.log());
    // It looks every third of the duration, and needn't wait for all of it.
    second.until_metric(LEADER, 1.0).await?;
    assert!(begun.elapsed() < std::time::Duration::from_secs(15));
    assert_eq!(stage.leader().as_deref(), Some("b"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_cannot_renew_stops_before_another_may_begin() -> Result<()> {
    let stage = Stage::start().await?;
    stage.api.seed("nodes", [node("n1", "u1")]);
    stage.api.seed("resourceclaims", [claim("c1", "claim-1", ("n1", "gpu-0000-41-00"), &[("p1", "pod-1")])]);
    let replica = stage.replica("a", &["--lease-duration=6s", "--stuck-after=1s"])?;
    replica.until_metric(LEADER, 1.0).await?;
    replica.until_metric(STUCK, 1.0).await?;
    let fault = Fault {
        verb: "update".into(),
        resource: "leases".into(),
        times: usize::MAX,
        trouble: Trouble::Error(500, None),
    };
    stage.api.inject(fault);
    let held = std::time::Instant::now();
    stage.until("a renewal has failed", || replica.log().contains("can't be taken or renewed")).await?;
    replica.until_metric(LEADER, 0.0).await?;
    assert_eq!(replica.metric(STUCK).await?, Some(0.0), "the one that leads tells of it");
    assert!(held.elapsed() < std::time::Duration::from_secs(6), "another one would wait for as long");
    stage.api.heal();
    replica.until_metric(LEADER, 1.0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_somebody_else_took_is_left_to_him() -> Result<()> {
    let stage = Stage::start().await?;
    let replica = stage.replica("a", &PATIENT)?;
    replica.until_metric(LEADER, 1.0).await?;
    let mut lease = stage.api.peek("leases", "aliquot", "aliquot-controller").unwrap();
    lease["spec"]["holderIdentity"] = json!("c");
    lease["spec"]["leaseDurationSeconds"] = json!(3600);
    stage.api.seed("leases", [lease]);
    replica.until_metric(LEADER, 0.0).await?;
    stage.until("it has looked", || replica.log().contains("another replica leads")).await?;
    assert_eq!(stage.leader().as_deref(), Some("c"));
    Ok(())
}
