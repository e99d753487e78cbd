//! CDI specs without records, and records without specs.
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn specs_that_no_record_stands_behind_go_and_files_of_others_stay() -> Result<()> {
    let testbed = started(&[]).await?;
    let cdi = testbed.node.path("cdi");
    let precious = testbed.node.path("precious");
    std::fs::write(&precious, "precious")?;
    let foreign =
        ["nvidia.yaml", "gpu.aliquot.dev-gpu_u1.json", "other.dev-claim_u1.json", "gpu.aliquot.dev-claim_u1.yaml"];
    for name in foreign {
        std::fs::write(cdi.join(name), "{}")?;
    }
    let begun = Instant::now();
    std::fs::write(cdi.join("gpu.aliquot.dev-claim_orphan.json"), "{}")?;
    std::os::unix::fs::symlink(&precious, cdi.join("gpu.aliquot.dev-claim_link.json"))?;
    let ours = || testbed.specs().unwrap().iter().any(|path| path.ends_with("gpu.aliquot.dev-claim_orphan.json"));
    testbed.until("the orphan is gone", || !ours()).await?;
    assert!(begun.elapsed() >= GRACE);
    testbed
        .until("the link is gone", || cdi.join("gpu.aliquot.dev-claim_link.json").symlink_metadata().is_err())
        .await?;
    assert_eq!(std::fs::read(&precious)?, b"precious");
    for name in foreign {
        assert!(cdi.join(name).exists(), "{name}");
    }
    testbed.until_metric(&removed("no_record"), Some(2)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spec_that_a_container_uses_stays_without_its_record() -> Result<()> {
    let mut testbed = started(&[]).await?;
    aliquot_tests::testbed::apply(&testbed.client, &aliquot_tests::objects::templates()).await?;
    let (made, _) = testbed.run_pod(aliquot_tests::objects::pod("a", &["whole"])).await?;
    testbed.kill_driver()?;
    std::fs::remove_file(&testbed.records()?[0])?;
    testbed.restart_driver(&QUICK).await?;
    rounds(&testbed, ENOUGH).await?;
    assert_eq!(testbed.specs()?.len(), 1, "a container that starts again needs it");
    testbed.kubelet.stop_pod(made.metadata.uid.as_deref().unwrap()).await?;
    assert!(holds_nothing(&testbed));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spec_that_somebody_removed_is_written_again() -> Result<()> {
    let testbed = started(&[]).await?;
    forgotten(&testbed, "a", ONE).await?;
    let path = testbed.specs()?.remove(0);
    let before = std::fs::read(&path)?;
    std::fs::remove_file(&path)?;
    testbed.until("the spec is back", || path.exists()).await?;
    assert_eq!(std::fs::read(&path)?, before);
    Ok(())
}
