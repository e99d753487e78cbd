//! Device plugins, as the kubelet tells of them.
use aliquot_tests::{
    objects::{pod, templates},
    testbed::apply,
};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn what_a_plugin_registers_is_tainted_and_told_until_it_has_gone() -> Result<()> {
    let (testbed, plugins) = started(&[]).await?;
    assert_eq!(tainted(&testbed), BTreeSet::new());
    let (first, second) = (uuid(&testbed, 0), uuid(&testbed, 1));
    let replicas = [format!("{first}::0"), format!("{first}::1"), format!("{second}::0"), "GPU-of-nobody".to_owned()];
    plugins.offer(RESOURCE, &replicas.each_ref().map(String::as_str))?;
    until_tainted(&testbed, &[FIRST, SECOND]).await?;
    let (object, note) = testbed.event("GPUContested").await?;
    assert_eq!(object, format!("Node {NODE}"));
    let words = ["the device plugin of nvidia.com/gpu", "0000:1b:00.0, 0000:43:00.0", TAINT, "offer: []"];
    for words in words.into_iter().chain(["kubectl label node node1 nvidia.com/gpu.deploy.device-plugin=false"]) {
        assert!(note.contains(words), "{words}: {note}");
    }
    let series = |uuid: &str| format!("aliquot_gpu_handed_out_elsewhere{{uuid=\"{uuid}\",by=\"{RESOURCE}\"}}");
    assert_eq!(testbed.metric(&series(&first)).await?, Some(1));
    assert_eq!(testbed.metric("aliquot_other_plugins_readable").await?, Some(1));

    plugins.offer(RESOURCE, &[])?;
    until_clear(&testbed).await?;
    let (object, note) = testbed.event("GPUUncontested").await?;
    assert_eq!(object, format!("Node {NODE}"));
    assert!(note.contains("this driver's alone again: 0000:1b:00.0, 0000:43:00.0"), "{note}");
    testbed.until_metric(&series(&first), None).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduler_gives_claims_other_gpus() -> Result<()> {
    let (testbed, plugins) = started(&[]).await?;
    apply(&testbed.client, &templates()).await?;
    let all: Vec<String> = (0..8).map(|index| uuid(&testbed, index)).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    plugins.offer(RESOURCE, &all[1..])?;
    testbed.until("seven GPUs are tainted", || tainted(&testbed).len() == 14).await?;
    let (_, running) = testbed.run_pod(pod("a", &["whole"])).await?;
    assert_eq!(testbed.nodes_of(&running.containers["main"])?, ["/dev/nvidia0"]);
    let waiting = testbed.create_pod(pod("b", &["share"])).await?;
    let refusal = testbed.scheduler.schedule(&waiting).await.unwrap_err().to_string();
    assert!(refusal.contains("is tainted"), "{refusal}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_while_nothing_changes_however_often_the_kubelet_writes() -> Result<()> {
    let (testbed, plugins) = started(&[]).await?;
    let first = uuid(&testbed, 0);
    plugins.offer(RESOURCE, &[&first])?;
    until_tainted(&testbed, &[FIRST]).await?;
    testbed.event("GPUContested").await?;
    let before = writes(&testbed);
    for pod in ["a", "b", "c"] {
        let calls = testbed.kubelet.asked();
        plugins.hold("team", pod, RESOURCE, &[&first])?;
        testbed.until("the kubelet is asked again", || testbed.kubelet.asked() >= calls + 2).await?;
    }
    testbed.until_metric(&format!("aliquot_gpu_held_elsewhere{{uuid=\"{first}\"}}"), Some(3)).await?;
    assert_eq!(writes(&testbed), before);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taint_outlasts_restarts_of_the_driver_the_plugin_and_the_kubelet() -> Result<()> {
    let (mut testbed, plugins) = started(&[]).await?;
    let first = uuid(&testbed, 0);
    plugins.offer(RESOURCE, &[&first])?;
    until_tainted(&testbed, &[FIRST]).await?;
    let begun = testbed.api.history("resourceslices").len();
    testbed.restart_driver(&[]).await?;
    // Until it has heard of the plugin for itself, a kubelet without one is all that it knows.
    testbed
        .until_metric(&format!("aliquot_gpu_handed_out_elsewhere{{uuid=\"{first}\",by=\"{RESOURCE}\"}}"), Some(1))
        .await?;
    // The kubelet comes back without the plugin, which registers anew.
    let calls = testbed.kubelet.asked();
    testbed.kubelet.restart()?;
    testbed.until("the kubelet is asked", || testbed.kubelet.asked() >= calls + 2).await?;
    let calls = testbed.kubelet.asked();
    plugins.offer(RESOURCE, &[&first])?;
    testbed.until("the kubelet is asked again", || testbed.kubelet.asked() >= calls + 2).await?;
    for slices in testbed.api.history("resourceslices").into_iter().skip(begun) {
        let has_it = serde_json::to_string(&slices)?.contains(&format!("\"name\":\"{FIRST}\""));
        assert!(!has_it || tainted_in(&slices) == of(&[FIRST]), "{:?}", tainted_in(&slices));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_is_found_under_any_resource_and_numbers_of_other_things_are_none() -> Result<()> {
    let (testbed, plugins) = started(&[]).await?;
    plugins.offer("example.com/cpu", &["0", "1"])?;
    plugins.offer("nvidia.com/GH100_PASSTHROUGH", &["1", "0000:ff:00.0"])?;
    plugins.offer("example.com/renamed", &["0000:1b:00.0"])?;
    until_tainted(&testbed, &[FIRST]).await?;
    plugins.offer("nvidia.com/mig-1g.10gb", &["MIG-0c757bd0-9d3d-5a5f-8d0b-bd1d3f8b5a35"])?;
    let told =
        |words: &str| testbed.events("GPUContested").iter().any(|event| event["note"].to_string().contains(words));
    testbed.until("MIG devices are told", || told("the device plugin of nvidia.com/mig-1g.10gb hands out MIG")).await?;
    assert_eq!(tainted(&testbed), of(&[FIRST]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_that_cannot_be_asked_is_no_evidence_and_is_heard_once_it_can() -> Result<()> {
    let (mut testbed, plugins) = prepared(Server::builder()).await?;
    std::fs::remove_file(testbed.node.path("kubelet/pod-resources/kubelet.sock"))?;
    testbed.start_driver(&[])?;
    testbed.ready().await?;
    assert_eq!(tainted(&testbed), BTreeSet::new());
    assert_eq!(testbed.log().matches("is its directory pod-resources mounted here?").count(), 1);
    testbed.until_metric("aliquot_other_plugins_readable", Some(0)).await?;
    testbed.kubelet.restart()?;
    plugins.offer(RESOURCE, &[&uuid(&testbed, 0)])?;
    until_tainted(&testbed, &[FIRST]).await?;
    testbed.until_metric("aliquot_other_plugins_readable", Some(1)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_are_served_by_this_driver_are_no_plugins() -> Result<()> {
    let (testbed, plugins) = started(&[]).await?;
    // An extended resource that DRA serves is in the kubelet's answer as the claim that it is.
    plugins.claim("team", "a", DRIVER, &format!("{DRIVER}/{NODE}"), FIRST);
    let calls = testbed.kubelet.asked();
    plugins.offer("example.com/nic", &["0000:99:00.0"])?;
    testbed.until("the kubelet is asked", || testbed.kubelet.asked() >= calls + 2).await?;
    let claim = testbed.allocated("claim", &[("gpu", FIRST)]).await?;
    testbed.prepare(&claim).await?.unwrap();
    assert_eq!((tainted(&testbed), testbed.events("GPUContested").len()), (BTreeSet::new(), 0));
    Ok(())
}
