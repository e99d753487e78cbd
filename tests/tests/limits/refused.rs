//! Who gets no limit, and therefore no container, and what is said then.
use std::{collections::BTreeMap, os::unix::fs::PermissionsExt as _};

use aliquot_tests::skip::skip;
use fake_nvml::Control;

use super::*;

/// What NVML answers where it has no such function for a GPU.
const NOT_SUPPORTED: u32 = 3;

#[tokio::test(flavor = "multi_thread")]
async fn a_state_without_a_process_is_refused_by_the_hook_itself() -> Result<()> {
    let mut testbed = Testbed::start("limits").await?;
    let claim = prepared(&testbed, "claim", HARD, &[8]).await?;
    let hook = hook(&testbed, &claim.ids[0])?;
    // Nobody is asked, so nobody needs to be there.
    testbed.stop_driver()?;
    let huge = "x".repeat(2 << 20);
    for (state, words) in [
        ("", "is no JSON"),
        ("{\"pid\":", "is no JSON"),
        ("\u{fffd}\u{0}", "is no JSON"),
        ("{}", "has no pid"),
        (r#"{"pid": 0}"#, "has no pid"),
        (r#"{"pid": -7}"#, "has no pid"),
        (r#"{"pid": 99999999999}"#, "has no pid"),
        (huge.as_str(), "is larger than"),
    ] {
        let error = Running::start(hook.command(), state).ended().unwrap_err();
        assert!(error.contains(words), "{words}: {error}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_promised_to_nobody_is_given_to_nobody() -> Result<()> {
    let testbed = Testbed::start("limits").await?;
    let claim = prepared(&testbed, "claim", HARD, &[8]).await?;
    let other = prepared(&testbed, "other", HARD, &[4]).await?;
    let plain = prepared(&testbed, "plain", PLAIN, &[8]).await?;
    let (inside, outside, hidden) = (1_000_001, 1_000_002, 1_000_003);
    testbed.node.place_container(inside, POD, "one")?;
    testbed.node.place(outside, None)?;
    let hook = || hook(&testbed, &claim.ids[0]);
    let name = |prepared: &Prepared| prepared.ids[0].split_once('=').unwrap().1.to_owned();
    for (hook, pid, words) in [
        (hook()?.with("--claim", "00000000-0000-4000-8000-000000000000"), inside, "no claim with UID 00000000"),
        (hook()?.with("--claim", "../../claims/x"), inside, "no claim with UID"),
        (hook()?.with("--device", &name(&other)), inside, "holds no device"),
        (
            hook()?.with("--claim", &plain.claim.uid).with("--device", &name(&plain)),
            inside,
            "no share with a hard memory limit",
        ),
        (hook()?, outside, "no pod's"),
        (hook()?, hidden, "hostPID"),
    ] {
        let error = hook.run(pid).unwrap_err();
        assert!(error.contains(words), "{words}: {error}");
    }
    let hook = hook()?;
    testbed.unprepare(&claim.claim).await?.unwrap();
    let error = hook.run(inside).unwrap_err();
    assert!(error.contains(&format!("no claim with UID {}", claim.claim.uid)), "{error}");
    assert_eq!(limits(&testbed), []);
    assert!(testbed.log().contains("a container can't start"), "the node's operator hears of it too");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_that_fails_to_limit_lets_no_container_start_and_says_what_to_do() -> Result<()> {
    let testbed = Testbed::start("limits").await?;
    let claim = prepared(&testbed, "claim", HARD, &[8]).await?;
    let (pid, hook) = (std::process::id(), hook(&testbed, &claim.ids[0])?);
    let cgroup = testbed.node.place_container(pid, POD, "one")?;
    let uuid = testbed.node.profile().gpus[0].uuid.clone();
    let failing = BTreeMap::from([("nvmlDeviceSetMemoryLimits_v1".to_owned(), NOT_SUPPORTED)]);
    testbed.node.control(&Control { errors: BTreeMap::from([(uuid.clone(), failing)]), ..Control::default() })?;
    let error = hook.run(pid).unwrap_err();
    for words in ["can't be limited", &uuid, cgroup.to_str().unwrap(), "--hook"] {
        assert!(error.contains(words), "{words}: {error}");
    }
    testbed.node.control(&Control::default())?;
    hook.run(pid).unwrap();
    assert_eq!(limits(&testbed), [limit(&cgroup, 8)]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_root_is_answered() -> Result<()> {
    /// The user nobody.
    const NOBODY: u32 = 65534;
    if !rustix::process::geteuid().is_root() {
        skip("only root can start a hook as somebody else");
        return Ok(());
    }
    let testbed = Testbed::start("limits").await?;
    let claim = prepared(&testbed, "claim", HARD, &[8]).await?;
    let (pid, hook) = (std::process::id(), hook(&testbed, &claim.ids[0])?);
    testbed.node.place_container(pid, POD, "one")?;
    let plugin = hook.path.parent().unwrap();
    for dir in plugin.ancestors().take_while(|dir| *dir != std::env::temp_dir()) {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))?;
    }
    let as_nobody = || {
        let mut command = hook.command();
        command.uid(NOBODY).gid(NOBODY);
        Running::start(command, &state(pid)).ended()
    };
    let error = as_nobody().unwrap_err();
    assert!(error.contains("Permission denied"), "the socket's mode: {error}");
    std::fs::set_permissions(plugin.join("limits.sock"), std::fs::Permissions::from_mode(0o666))?;
    as_nobody().unwrap_err();
    assert_eq!(limits(&testbed), []);
    assert!(testbed.log().contains("it is not root"), "{}", testbed.log());
    hook.run(pid).unwrap();
    Ok(())
}
