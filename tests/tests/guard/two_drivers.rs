//! Two drivers on one node, as in a rolling update.
use std::process::Child;

use super::*;

fn evictions(testbed: &Testbed) -> usize {
    testbed.api.requests().get(&("create".to_owned(), "pods/eviction".to_owned())).copied().unwrap_or_default()
}

/// Ends with the test.
struct Newer(Child);

impl Drop for Newer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_drivers_acts_for_the_claims_of_both_and_the_other_when_it_has_ended() -> Result<()> {
    let mut testbed = guarded("t4x1", "evict", "100ms").await?;
    // Whoever acts first has the turn.
    let first = run(&testbed, "first", &["share"]).await?;
    let mut users = Users::of(&testbed);
    let mut pids = vec![users.using(Some(&first), 4 * GI)?];
    testbed.event("ShareMemoryEvicted").await?;
    let (file, interval) = (file(&testbed), format!("{}ms", INTERVAL.as_millis()));
    let policy = ("ALIQUOT_POLICY", file.to_str().unwrap());
    let newer = [policy, ("ALIQUOT_GUARD_INTERVAL", interval.as_str()), ("POD_UID", "newer")];
    let _newer = Newer(testbed.another_driver(&newer)?);
    let registered = || testbed.log().matches("registered with the kubelet").count() == 2;
    testbed.until("both are registered", registered).await?;
    // The kubelet has the newer one prepare it, of which the older one hears by looking.
    let second = run(&testbed, "second", &["share"]).await?;
    pids.push(users.using(Some(&second), 5 * GI)?);
    testbed.until("the older one evicts it", || told(&testbed).len() == 2).await?;
    looks(20).await;
    assert_eq!((evictions(&testbed), told(&testbed).len()), (2, 2));
    let third = run(&testbed, "third", &["share"]).await?;
    let left: Vec<u32> = pids.into_iter().filter(|pid| users.is_alive(*pid)).collect();
    drop(users);
    assert_eq!(left.len(), 2);
    testbed.kill_driver()?;
    let mut users = Users::of(&testbed);
    users.using(Some(&third), 6 * GI)?;
    testbed.until("the newer one evicts", || told(&testbed).iter().any(|(_, pod)| pod == "third")).await?;
    assert_eq!(evictions(&testbed), 3);
    Ok(())
}
