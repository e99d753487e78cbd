//! Two drivers on one node, as in a rolling update.
use std::process::Child;

use rustix::process::{Pid, Signal, kill_process};
use tokio::task::JoinHandle;

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

/// A driver that stands still in a prepare, a newer one that has unprepared the claim meanwhile, and what the first answers
/// in the end. The claim is gone.
async fn overtaken(
    testbed: &Testbed,
    environment: &[(&str, &str)],
) -> Result<(Other, Other, JoinHandle<Result<String>>)> {
    let all = [&[("ALIQUOT_FAULT", "prepare-begun=stop")], environment].concat();
    let older = Other(testbed.another_driver(&all)?);
    testbed.ready().await?;
    let claim = testbed.allocated("late", &[("gpu", ONE)]).await?;
    let (client, asked) = (testbed.kubelet.client(DRIVER)?, claim.clone());
    let late =
        tokio::spawn(async move { Ok(client.prepare(vec![asked.clone()]).await?.claims[&asked.uid].error.clone()) });
    let stat = format!("/proc/{}/stat", older.0.id());
    let is_stopped = || std::fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") T "));
    testbed.until("the old one stands still", is_stopped).await?;
    let newer = Other(testbed.another_driver(&[environment, &[("POD_UID", "newer")]].concat())?);
    let registered = || testbed.log().matches("registered with the kubelet").count() == 2;
    testbed.until("the newer one is registered", registered).await?;
    testbed.unprepare(&claim).await?.unwrap();
    delete(testbed, "late").await?;
    Ok((older, newer, late))
}

fn go_on(driver: &Other) -> Result<()> {
    Ok(kill_process(Pid::from_child(&driver.0), Signal::CONT)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepare_that_stood_still_until_nobody_waits_for_it_undoes_itself() -> Result<()> {
    let testbed = Testbed::without_driver("h100x8", Server::builder()).await?;
    let (older, _newer, late) =
        overtaken(&testbed, &[("ALIQUOT_PREPARE_BUDGET", "1s"), ("ALIQUOT_SWEEP", "off")]).await?;
    // The budget, and five seconds in which an answer would still be heard.
    tokio::time::sleep(Duration::from_secs(6)).await;
    go_on(&older)?;
    testbed.until("it has given up", || testbed.log().contains("nobody waits for the claim any more")).await?;
    testbed.until("nothing is left", || holds_nothing(&testbed)).await?;
    assert_ne!(late.await??, "", "whoever would still listen isn't told of devices");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepare_that_is_heard_after_its_claim_was_unprepared_and_gone_is_swept() -> Result<()> {
    let testbed = Testbed::without_driver("h100x8", Server::builder()).await?;
    let (older, _newer, late) = overtaken(&testbed, &QUICK).await?;
    go_on(&older)?;
    // It has read the claim before, and knows no better.
    assert_eq!(late.await??, "");
    assert!(!holds_nothing(&testbed));
    swept(&testbed).await?;
    testbed.event("StaleClaimRemoved").await.map(drop)
}
