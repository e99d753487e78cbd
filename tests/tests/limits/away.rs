//! A driver that is away when a container starts: missed, waited for, and replaced. Its own patience makes it the longest part.
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn without_a_driver_the_container_fails_with_what_to_look_at() -> Result<()> {
    let mut testbed = Testbed::start("limits").await?;
    let claim = prepared(&testbed, "claim", HARD, &[8]).await?;
    let (pid, hook) = (std::process::id(), hook(&testbed, &claim.ids[0])?);
    testbed.node.place_container(pid, POD, "one")?;
    testbed.stop_driver()?;
    let error = hook.run(pid).unwrap_err();
    for words in
        ["limits.sock", "can't be limited as its claim was promised", "is aliquot-driver running on this node?"]
    {
        assert!(error.contains(words), "{words}: {error}");
    }
    assert_eq!(limits(&testbed), []);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_comes_back_in_time_serves_who_waited_and_knows_what_was_set() -> Result<()> {
    let mut testbed = Testbed::start("limits").await?;
    let claim = prepared(&testbed, "claim", HARD, &[8, 4]).await?;
    let pid = std::process::id();
    let (first, second) = (hook(&testbed, &claim.ids[0])?, hook(&testbed, &claim.ids[1])?);
    let cgroup = testbed.node.place_container(pid, POD, "one")?;
    first.run(pid).unwrap();
    // Killed, it leaves a socket that nobody listens at; stopped, none.
    testbed.kill_driver()?;
    let waiting = second.start(pid);
    testbed.restart_driver(&[]).await?;
    waiting.ended().unwrap();
    assert_eq!(limits(&testbed), [limit(&cgroup, 12)], "both devices of the container, over two lives of the driver");
    testbed.stop_driver()?;
    let waiting = second.start(pid);
    testbed.restart_driver(&[]).await?;
    waiting.ended().unwrap();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promise_is_kept_by_a_driver_that_makes_none_any_more() -> Result<()> {
    let mut testbed = Testbed::start("limits").await?;
    let claim = prepared(&testbed, "claim", HARD, &[8]).await?;
    let (pid, hook) = (std::process::id(), hook(&testbed, &claim.ids[0])?);
    let specs = || testbed.specs().unwrap().iter().map(|path| std::fs::read(path).unwrap()).collect::<Vec<_>>();
    let before = specs();
    let cgroup = testbed.node.place_container(pid, POD, "one")?;
    testbed.restart_driver(&[("ALIQUOT_HOOK", "")]).await?;
    assert_eq!(testbed.prepare(&claim.claim).await?.unwrap(), claim.ids);
    let specs = testbed.specs()?.iter().map(std::fs::read).collect::<std::io::Result<Vec<_>>>()?;
    assert_eq!(specs, before);
    hook.run(pid).unwrap();
    assert_eq!(limits(&testbed), [limit(&cgroup, 8)]);
    Ok(())
}
