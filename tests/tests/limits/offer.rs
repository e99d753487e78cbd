//! What a node says of its shares, and what it writes for the container runtime.
use std::os::unix::fs::MetadataExt as _;

use aliquot_tests::node::Artifacts;
use fake_apiserver::Server;
use k8s_openapi::api::resource::v1::Device;

use super::*;

/// Waits until the slices say this of all GPUs' shares, in order.
async fn promised(testbed: &Testbed, expected: &[&str]) -> Result<()> {
    let enforcement = |device: Device| {
        let attributes = device.attributes.filter(|_| device.name.ends_with("-shared"))?;
        attributes.get("memoryEnforcement")?.string.clone()
    };
    let told = || testbed.devices().into_iter().filter_map(enforcement).collect::<Vec<_>>();
    testbed.until(&format!("{expected:?} is published"), || told() == expected).await
}

#[tokio::test(flavor = "multi_thread")]
async fn hard_is_promised_where_gpu_host_and_operator_allow_it() -> Result<()> {
    let mut testbed = Testbed::start("limits").await?;
    promised(&testbed, &["hard", "guard"]).await?;
    let inspected = testbed.node.driver("inspect").args(["-o", "json"]).output()?.stdout;
    assert!(String::from_utf8(inspected)?.contains("\"hard\""), "inspect says what is published");
    for environment in [&[("ALIQUOT_HOOK", "")][..], &[("ALIQUOT_HOOK", "/nowhere/aliquot-hook")], &[]] {
        testbed.restart_driver(environment).await?;
        let expected = if environment.is_empty() { "hard" } else { "guard" };
        promised(&testbed, &[expected, "guard"]).await?;
    }
    for reason in ["--hook is empty", "/nowhere/aliquot-hook can't be read"] {
        assert!(testbed.log().contains(reason), "{reason}: {}", testbed.log());
    }
    std::fs::remove_file(testbed.node.cgroups().join("cgroup.controllers"))?;
    testbed.restart_driver(&[]).await?;
    promised(&testbed, &["guard", "guard"]).await?;
    assert!(testbed.log().contains("no cgroup v2 hierarchy"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_without_the_functions_promises_none() -> Result<()> {
    let testbed = Testbed::start("t4x1").await?;
    promised(&testbed, &["guard"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_with_a_limit_brings_the_hook_and_nothing_else_does() -> Result<()> {
    let testbed = Testbed::start("limits").await?;
    let Prepared { claim, ids } = prepared(&testbed, "small", HARD, &[8]).await?;
    let plugin = testbed.node.path("kubelet/plugins").join(DRIVER);
    let path = plugin.join("aliquot-hook");
    let socket = plugin.join("limits.sock");
    let name = ids[0].split_once('=').unwrap().1;
    let expected = json!([{
        "hookName": "createRuntime",
        "path": path,
        "args": ["aliquot-hook", "limit-memory", "--log", plugin.join("hook.log"), "--socket", socket, "--claim",
            claim.uid, "--device", name],
        "env": ["PATH=/nowhere"],
        "timeout": 15,
    }]);
    assert_eq!(edits(&testbed, &ids[0])?["hooks"], expected);
    assert_eq!(std::fs::read(&path)?, std::fs::read(Artifacts::find()?.hook())?, "the hook is the one that is shipped");
    assert_eq!((path.metadata()?.mode() & 0o7777, socket.metadata()?.mode() & 0o777), (0o755, 0o600));

    let plain = prepared(&testbed, "plain", PLAIN, &[8]).await?;
    assert!(edits(&testbed, &plain.ids[0])?.get("hooks").is_none());
    testbed.unprepare(&plain.claim).await?.unwrap();
    let whole = testbed.allocated("whole", &[("gpu", PLAIN.trim_end_matches("-shared"))]).await?;
    let ids = testbed.prepare(&whole).await?.unwrap();
    assert!(edits(&testbed, &ids[0])?.get("hooks").is_none());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_was_changed_is_put_right_when_the_driver_starts() -> Result<()> {
    let mut testbed = Testbed::without_driver("limits", Server::builder()).await?;
    let plugin = testbed.node.path("kubelet/plugins").join(DRIVER);
    std::fs::create_dir(&plugin)?;
    std::fs::write(plugin.join("aliquot-hook"), "#!/bin/sh\n")?;
    testbed.start_driver(&[])?;
    testbed.ready().await?;
    assert_eq!(std::fs::read(plugin.join("aliquot-hook"))?, std::fs::read(Artifacts::find()?.hook())?);
    Ok(())
}
