//! Claims that were allocated a GPU which others hand out too.
use aliquot_tests::objects::{allocation, whole};
use serde_json::json;

use super::*;

/// A node on which a plugin hands out the first GPU.
async fn contested(environment: &[(&str, &str)]) -> Result<(Testbed, DevicePlugins, String)> {
    let (testbed, plugins) = started(environment).await?;
    let first = uuid(&testbed, 0);
    plugins.offer(RESOURCE, &[&first])?;
    testbed.event("GPUContested").await?;
    Ok((testbed, plugins, first))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_that_a_plugins_pod_holds_is_refused_with_who_and_what_to_do_until_that_pod_has_ended() -> Result<()> {
    let (testbed, plugins, first) = contested(&[]).await?;
    let claim = testbed.allocated("claim", &[("gpu", FIRST)]).await?;
    plugins.hold("default", "training", RESOURCE, &[&first])?;
    let error = testbed.prepare(&claim).await?.unwrap_err();
    for words in [
        FIRST,
        "pod default/training got the GPU from the device plugin of nvidia.com/gpu",
        "delete this pod",
        "kubectl label node node1 nvidia.com/gpu.deploy.device-plugin=false",
    ] {
        assert!(error.contains(words), "{words}: {error}");
    }
    assert_eq!((testbed.specs()?.len(), testbed.records()?.len()), (0, 0), "nothing is left of what was refused");
    let share = testbed.allocated("share", &[("gpu", &format!("{FIRST}-shared"))]).await?;
    assert!(testbed.prepare(&share).await?.unwrap_err().contains("is in use"));
    let elsewhere = testbed.allocated("elsewhere", &[("gpu", SECOND)]).await?;
    testbed.prepare(&elsewhere).await?.unwrap();
    // The kubelet tells nobody of the end of a pod.
    plugins.end("default", "training");
    testbed.prepare(&claim).await?.unwrap();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_that_is_only_offered_elsewhere_is_prepared() -> Result<()> {
    let (testbed, _, _) = contested(&[]).await?;
    let claim = testbed.allocated("claim", &[("gpu", FIRST)]).await?;
    testbed.prepare(&claim).await?.unwrap();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_of_another_namespace_is_not_named() -> Result<()> {
    let (testbed, plugins, first) = contested(&[]).await?;
    plugins.hold("secret-team", "secret-name", RESOURCE, &[&first])?;
    let claim = testbed.allocated("claim", &[("gpu", FIRST)]).await?;
    let error = testbed.prepare(&claim).await?.unwrap_err();
    assert!(error.contains("a pod in another namespace") && !error.contains("secret"), "{error}");
    assert!(testbed.log().contains("secret-team/secret-name"), "administrators read the log");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_is_not_touched_and_what_only_looks_is_prepared() -> Result<()> {
    let (mut testbed, plugins, first) = contested(&[]).await?;
    let running = testbed.allocated("running", &[("gpu", FIRST)]).await?;
    let before = testbed.prepare(&running).await?.unwrap();
    plugins.hold("default", "training", RESOURCE, &[&first])?;
    assert_eq!(testbed.prepare(&running).await?.unwrap(), before);
    let (object, note) = testbed.event("GPUUsedTwice").await?;
    assert_eq!(object, format!("Node {NODE}"));
    for words in [&first, "the device plugin of nvidia.com/gpu gave it to pod default/training", "delete one of them"] {
        assert!(note.contains(words), "{words}: {note}");
    }
    testbed.restart_driver(&[]).await?;
    assert_eq!(testbed.prepare(&running).await?.unwrap(), before);
    let mut result = whole("gpu", &format!("{FIRST}-admin"));
    result["adminAccess"] = json!(true);
    let monitor = testbed.allocated_as("monitor", allocation(&[result])).await?;
    testbed.prepare(&monitor).await?.unwrap();
    testbed.unprepare(&running).await?.unwrap();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_that_no_longer_answers_has_said_its_last_word() -> Result<()> {
    let (testbed, plugins, first) = contested(&[]).await?;
    plugins.hold("default", "training", RESOURCE, &[&first])?;
    testbed.until_metric(&format!("aliquot_gpu_held_elsewhere{{uuid=\"{first}\"}}"), Some(1)).await?;
    testbed.kubelet.trouble_list(ListTrouble::Refused);
    let claim = testbed.allocated("claim", &[("gpu", FIRST)]).await?;
    assert!(testbed.prepare(&claim).await?.unwrap_err().contains("default/training"));
    assert_eq!(tainted(&testbed), of(&[FIRST]));
    Ok(())
}
