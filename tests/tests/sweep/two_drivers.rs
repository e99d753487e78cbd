//! Two drivers on one node, as in a rolling update.
use std::process::Child;

use rustix::process::{Pid, Signal, kill_process};

use super::*;

/// Ends with the test.
struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_drivers_sweeps_and_the_other_when_it_has_ended() -> Result<()> {
    let mut testbed = started(&[]).await?;
    forgotten(&testbed, "first", ONE).await?;
    rounds(&testbed, 2).await?;
    let _newer = Other(testbed.another_driver(&[&QUICK[..], &[("POD_UID", "newer")]].concat())?);
    let registered = || testbed.log().matches("registered with the kubelet").count() == 2;
    testbed.until("both are registered", registered).await?;
    delete(&testbed, "first").await?;
    swept(&testbed).await?;
    let told = |testbed: &Testbed| testbed.events("StaleClaimRemoved").len();
    testbed.until("it is told", || told(&testbed) == 1).await?;
    // The newer one prepares, of which the older one hears from the records.
    forgotten(&testbed, "second", ONE).await?;
    testbed.kill_driver()?;
    delete(&testbed, "second").await?;
    swept(&testbed).await?;
    testbed.until("it is told", || told(&testbed) == 2).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepare_that_stood_still_until_its_claim_was_unprepared_and_gone_is_undone() -> Result<()> {
    let testbed = Testbed::without_driver("h100x8", Server::builder()).await?;
    let older = Other(testbed.another_driver(&[&QUICK[..], &[("ALIQUOT_FAULT", "prepare-begun=stop")]].concat())?);
    testbed.ready().await?;
    let claim = testbed.allocated("late", &[("gpu", ONE)]).await?;
    let (client, asked) = (testbed.kubelet.client(DRIVER)?, claim.clone());
    let late = tokio::spawn(async move { client.prepare(vec![asked]).await });
    let old = Pid::from_child(&older.0);
    let stat = format!("/proc/{}/stat", old.as_raw_nonzero());
    let is_stopped = || std::fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") T "));
    testbed.until("the old one stands still", is_stopped).await?;
    let _newer = Other(testbed.another_driver(&[&QUICK[..], &[("POD_UID", "newer")]].concat())?);
    let registered = || testbed.log().matches("registered with the kubelet").count() == 2;
    testbed.until("the newer one is registered", registered).await?;
    testbed.unprepare(&claim).await?.unwrap();
    delete(&testbed, "late").await?;
    kill_process(old, Signal::CONT)?;
    // It has read the claim before, and knows no better.
    assert_eq!(late.await??.claims[&claim.uid].error, "");
    assert!(!holds_nothing(&testbed));
    swept(&testbed).await?;
    testbed.event("StaleClaimRemoved").await.map(drop)
}
