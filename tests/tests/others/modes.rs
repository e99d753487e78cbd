//! What --other-plugins says, what the policy leaves to others, and API servers that store no taints.
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn whoever_only_wants_to_be_warned_is_and_nothing_is_kept_back() -> Result<()> {
    let (testbed, plugins) = started(&[("ALIQUOT_OTHER_PLUGINS", "warn")]).await?;
    let first = uuid(&testbed, 0);
    plugins.offer(RESOURCE, &[&first])?;
    plugins.hold("default", "training", RESOURCE, &[&first])?;
    let (_, note) = testbed.event("GPUContested").await?;
    assert!(note.contains("--other-plugins says warn"), "{note}");
    let claim = testbed.allocated("claim", &[("gpu", FIRST)]).await?;
    testbed.prepare(&claim).await?.unwrap();
    let told = || testbed.events("GPUContested").iter().any(|event| event["regarding"]["kind"] == "ResourceClaim");
    testbed.until("its users are warned", told).await?;
    assert_eq!(tainted(&testbed), BTreeSet::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_wants_it_ignored_has_nobody_asked() -> Result<()> {
    let (testbed, plugins) = started(&[("ALIQUOT_OTHER_PLUGINS", "ignore")]).await?;
    let first = uuid(&testbed, 0);
    plugins.offer(RESOURCE, &[&first])?;
    plugins.hold("default", "training", RESOURCE, &[&first])?;
    let claim = testbed.allocated("claim", &[("gpu", FIRST)]).await?;
    testbed.prepare(&claim).await?.unwrap();
    assert_eq!((testbed.kubelet.asked(), tainted(&testbed)), (0, BTreeSet::new()));
    assert_eq!(testbed.events("GPUContested").len(), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_policy_leaves_to_others_is_nobodys_trouble() -> Result<()> {
    let (mut testbed, plugins) = prepared(Server::builder()).await?;
    let (first, second) = (uuid(&testbed, 0), uuid(&testbed, 1));
    let file = testbed.node.path("policy.yaml");
    let rules = format!("rules: [{{match: {{uuid: '{first}'}}, offer: []}}]");
    std::fs::write(&file, format!("apiVersion: gpu.aliquot.dev/v1alpha1\nkind: Policy\n{rules}\n"))?;
    plugins.offer("example.com/theirs", &[&first])?;
    plugins.offer("example.com/both", &[&second])?;
    testbed.start_driver(&[("ALIQUOT_POLICY", file.to_str().unwrap())])?;
    until_tainted(&testbed, &[SECOND]).await?;
    testbed.event("GPUContested").await?;
    let events = testbed.events("GPUContested");
    assert!(events.len() == 1 && events[0]["note"].to_string().contains("example.com/both"), "{events:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn where_taints_are_not_stored_the_gpu_is_left_out_but_for_those_who_look_after_it() -> Result<()> {
    let (mut testbed, plugins) =
        prepared(Server::builder().drop_field("resourceslices", "spec.devices[].taints")).await?;
    testbed.start_driver(&[])?;
    testbed.ready().await?;
    assert_eq!(testbed.whole().len(), 8);
    let first = uuid(&testbed, 0);
    plugins.offer(RESOURCE, &[&first])?;
    let of_first = || testbed.published().into_iter().filter(|name| name.starts_with(FIRST)).collect::<Vec<_>>();
    testbed.until("only its device for administration is there", || of_first() == [format!("{FIRST}-admin")]).await?;
    assert_eq!(testbed.whole().len(), 7);
    // Events are written by a task of their own.
    testbed.event("GPUContested").await?;
    let before = writes(&testbed);
    let calls = testbed.kubelet.asked();
    plugins.hold("team", "a", RESOURCE, &[&first])?;
    testbed.until("the kubelet is asked again", || testbed.kubelet.asked() >= calls + 2).await?;
    testbed.until_metric(&format!("aliquot_gpu_held_elsewhere{{uuid=\"{first}\"}}"), Some(1)).await?;
    assert_eq!((of_first(), writes(&testbed)), (vec![format!("{FIRST}-admin")], before));
    Ok(())
}
