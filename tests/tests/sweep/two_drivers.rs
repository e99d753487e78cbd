//! Two drivers on one node, as in a rolling update.
use std::process::Child;

use super::*;

/// Ends with the test.
struct Newer(Child);

impl Drop for Newer {
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
    let _newer = Newer(testbed.another_driver(&[&QUICK[..], &[("POD_UID", "newer")]].concat())?);
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
