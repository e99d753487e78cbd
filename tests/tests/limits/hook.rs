//! The hook, run as a runtime runs it, before the first process of a container is let go.
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn each_container_gets_the_memory_of_its_claims_before_it_starts() -> Result<()> {
    let testbed = Testbed::start("limits").await?;
    let first = prepared(&testbed, "first", HARD, &[8]).await?;
    let second = prepared(&testbed, "second", HARD, &[4]).await?;
    let pid = std::process::id();
    let one = testbed.node.place_container(pid, POD, "one")?;
    hook(&testbed, &first.ids[0])?.run(pid).unwrap();
    assert_eq!(limits(&testbed), [limit(&one, 8)]);
    // A container with both claims: the runtime runs a hook for each.
    hook(&testbed, &second.ids[0])?.run(pid).unwrap();
    assert_eq!(limits(&testbed), [limit(&one, 12)]);
    hook(&testbed, &first.ids[0])?.run(pid).unwrap();
    assert_eq!(limits(&testbed), [limit(&one, 12)], "one that asks again counts once");
    let two = testbed.node.place_container(pid, POD, "two")?;
    hook(&testbed, &second.ids[0])?.run(pid).unwrap();
    assert_eq!(limits(&testbed), [limit(&one, 12), limit(&two, 4)]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn several_shares_of_one_claim_add_up_even_when_their_hooks_run_at_once() -> Result<()> {
    let testbed = Testbed::start("limits").await?;
    let claim = prepared(&testbed, "several", HARD, &[2, 3, 5]).await?;
    let pid = std::process::id();
    let cgroup = testbed.node.place_container(pid, POD, "one")?;
    let hooks = claim.ids.iter().map(|id| hook(&testbed, id)).collect::<Result<Vec<_>>>()?;
    let running: Vec<Running> = hooks.iter().map(|hook| hook.start(pid)).collect();
    for child in running {
        child.ended().unwrap();
    }
    assert_eq!(limits(&testbed), [limit(&cgroup, 10)]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_starts_again_gets_the_same_in_its_new_cgroup() -> Result<()> {
    let testbed = Testbed::start("limits").await?;
    let claim = prepared(&testbed, "claim", HARD, &[8]).await?;
    let (pid, hook) = (std::process::id(), hook(&testbed, &claim.ids[0])?);
    for attempt in ["one", "two"] {
        let cgroup = testbed.node.place_container(pid, POD, attempt)?;
        hook.run(pid).unwrap();
        assert!(limits(&testbed).contains(&limit(&cgroup, 8)));
        std::fs::remove_dir(cgroup)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_start_together_all_get_their_limits() -> Result<()> {
    const PODS: u32 = 48;
    let testbed = Testbed::start("limits").await?;
    let claim = prepared(&testbed, "shared", HARD, &[8]).await?;
    let hook = hook(&testbed, &claim.ids[0])?;
    let mut expected = Vec::new();
    // The numbers are those of no process: only the node's procfs is asked.
    for pid in 0..PODS {
        expected.push(limit(&testbed.node.place_container(1_000_000 + pid, POD, &format!("c{pid:02}"))?, 8));
    }
    let running: Vec<Running> = (0..PODS).map(|pid| hook.start(1_000_000 + pid)).collect();
    for child in running {
        child.ended().unwrap();
    }
    assert_eq!(limits(&testbed), expected);
    Ok(())
}
