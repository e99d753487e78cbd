//! Processes that are killed for what they use, and all those that are not.
use fake_apiserver::{Fault, Trouble};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_process_is_killed_and_no_other() -> Result<()> {
    let testbed = guarded("t4x1", "kill", "100ms").await?;
    let (hog, other) = (run(&testbed, "hog", &["share"]).await?, run(&testbed, "other", &["share"]).await?);
    let mut users = Users::of(&testbed);
    let (host, neighbour) = (users.using(None, 14 * GI)?, users.using(Some(&other), LIMIT)?);
    let (small, large) = (users.using(Some(&hog), GI)?, users.using(Some(&hog), 3 * GI)?);
    users.is_killed(large).await?;
    let (object, note) = testbed.event("ShareMemoryKilled").await?;
    assert_eq!(object, "Pod hog");
    for words in
        ["4.0 GiB", "1.5 GiB", &claims_of(&testbed, "hog")[0], &format!("Process {large} of this pod"), "3.0 GiB"]
    {
        assert!(note.contains(words), "{words}: {note}");
    }
    looks(10).await;
    assert!(users.is_alive(small) && users.is_alive(neighbour) && users.is_alive(host));
    assert_eq!(told(&testbed).len(), 1);
    testbed.until_metric(&done("killed"), Some(1)).await?;
    // Each has an event of its own, with its own figures.
    users.uses(small, 0, Some(2 * GI))?;
    users.is_killed(small).await?;
    let of_small = |event: &Value| event["note"].as_str().unwrap().contains(&format!("Process {small} of this pod"));
    testbed.until("it is told", || testbed.events("ShareMemoryKilled").iter().any(of_small)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_after_the_other_is_killed_until_the_rest_fits() -> Result<()> {
    let testbed = guarded("t4x1", "kill", "300ms").await?;
    let hog = run(&testbed, "hog", &["share"]).await?;
    let mut users = Users::of(&testbed);
    let all: Vec<u32> = (1..=4).map(|count| users.using(Some(&hog), count * GI)).collect::<Result<_>>()?;
    for pid in all.iter().skip(1).rev() {
        users.is_killed(*pid).await?;
    }
    looks(10).await;
    assert!(users.is_alive(all[0]));
    testbed.until_metric(&done("killed"), Some(3)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_changes_from_observe_to_kill_acts_on_those_who_are_there() -> Result<()> {
    let testbed = guarded("t4x1", "observe", "100ms").await?;
    let hog = run(&testbed, "hog", &["share"]).await?;
    let mut users = Users::of(&testbed);
    let pid = users.using(Some(&hog), 4 * GI)?;
    testbed.event("ShareMemoryExceeded").await?;
    assert!(users.is_alive(pid));
    replace(&testbed, policy(&guard("kill", "100ms")))?;
    users.is_killed(pid).await?;
    testbed.event("ShareMemoryKilled").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_starts_guards_the_claims_that_were_there() -> Result<()> {
    let mut testbed = guarded("t4x1", "kill", "100ms").await?;
    let hog = run(&testbed, "hog", &["share"]).await?;
    testbed.kill_driver()?;
    restart(&mut testbed).await?;
    let mut users = Users::of(&testbed);
    let pid = users.using(Some(&hog), 4 * GI)?;
    users.is_killed(pid).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ends_while_it_is_being_judged_is_no_error() -> Result<()> {
    let testbed = guarded("t4x1", "kill", "100ms").await?;
    let hog = run(&testbed, "hog", &["share"]).await?;
    let reads = || testbed.api.requests().get(&("get".to_owned(), "resourceclaims".to_owned())).copied();
    let before = reads();
    // Before it kills, the guard asks once more whose the claim is.
    let trouble = Trouble::Delay(Duration::from_secs(1));
    testbed.api.inject(Fault { verb: "get".into(), resource: "resourceclaims".into(), times: 1, trouble });
    let mut users = Users::of(&testbed);
    let pid = users.using(Some(&hog), 4 * GI)?;
    testbed.until("the claim is read", || reads() > before).await?;
    users.end(pid)?;
    testbed.until("it is seen to be gone", || testbed.log().contains("to be killed has ended already")).await?;
    testbed.until_metric(&line(&testbed, "used_bytes", &claims_of(&testbed, "hog")), Some(0)).await?;
    assert!(told(&testbed).is_empty());
    for action in ["killed", "refused"] {
        assert_eq!(testbed.metric(&done(action)).await?, Some(0), "{action}");
    }
    // The guard goes on.
    let next = users.using(Some(&hog), 4 * GI)?;
    users.is_killed(next).await
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_come_and_go_all_the_time_are_no_error() -> Result<()> {
    let testbed = guarded("t4x1", "kill", "10ms").await?;
    let (hog, other) = (run(&testbed, "hog", &["share"]).await?, run(&testbed, "other", &["share"]).await?);
    let mut users = Users::of(&testbed);
    let neighbour = users.using(Some(&other), LIMIT)?;
    for at in 0..60 {
        let pid = users.using(Some(&hog), 4 * GI)?;
        tokio::time::sleep(Duration::from_millis(at)).await;
        users.end(pid)?;
    }
    let log = testbed.log();
    assert!(!log.contains("ERROR") && !log.contains("panicked"), "{log}");
    assert_eq!(testbed.metric(&done("refused")).await?, Some(0), "{log}");
    assert!(users.is_alive(neighbour));
    let last = users.using(Some(&hog), 4 * GI)?;
    users.is_killed(last).await
}

#[tokio::test(flavor = "multi_thread")]
async fn where_process_numbers_are_not_the_hosts_nobody_is_killed() -> Result<()> {
    let testbed = guarded("t4x1", "kill", "100ms").await?;
    let hog = run(&testbed, "hog", &["share"]).await?;
    // As in a pod without hostPID.
    testbed.node.show_self(1)?;
    let mut users = Users::of(&testbed);
    let pid = users.using(Some(&hog), 4 * GI)?;
    testbed.until("it is told", || testbed.log().contains("the driver's pod needs hostPID")).await?;
    assert!(users.is_alive(pid) && told(&testbed).is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_api_server_is_silent_nobody_is_killed() -> Result<()> {
    let testbed = guarded("t4x1", "kill", "100ms").await?;
    let hog = run(&testbed, "hog", &["share"]).await?;
    let trouble = Trouble::Error(500, None);
    testbed.api.inject(Fault { verb: "get".into(), resource: "resourceclaims".into(), times: 1, trouble });
    let mut users = Users::of(&testbed);
    let pid = users.using(Some(&hog), 4 * GI)?;
    testbed.until("it is told", || testbed.log().contains("nothing is done on a guess")).await?;
    looks(10).await;
    assert!(users.is_alive(pid) && told(&testbed).is_empty());
    Ok(())
}
