//! What the driver makes of a node that isn't as it left it: another boot, damaged files.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
use aliquot_tests::testbed::{Result, Testbed};

const ONE: &str = "gpu-0000-1b-00";

async fn start(testbed: &mut Testbed, environment: &[(&str, &str)]) -> Result<()> {
    let registered = |testbed: &Testbed| testbed.log().matches("registered with the kubelet").count();
    let times = registered(testbed);
    testbed.start_driver(environment)?;
    testbed.until("the driver is registered", || registered(testbed) > times).await?;
    testbed.ready().await
}

async fn back(testbed: &mut Testbed) -> Result<()> {
    start(testbed, &[]).await
}

fn nothing_is_left(testbed: &Testbed) -> Result<()> {
    assert_eq!((testbed.specs()?, testbed.records()?), (vec![], vec![]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reboot_nothing_of_before_counts() -> Result<()> {
    let mut testbed = Testbed::start("h100x8").await?;
    let before = testbed.allocated("before", &[("gpu", ONE)]).await?;
    let after = testbed.allocated("after", &[("gpu", ONE)]).await?;
    testbed.prepare(&before).await?.unwrap();
    testbed.kill_driver()?;
    let record = std::fs::read(&testbed.records()?[0])?;
    let name = testbed.records()?[0].clone();
    testbed.node.reboot()?;
    // /run is no tmpfs here: the record outlived the boot, and its boot id tells.
    std::fs::create_dir_all(name.parent().unwrap())?;
    std::fs::write(&name, record)?;
    back(&mut testbed).await?;
    assert!(testbed.records()?.is_empty());
    testbed.prepare(&after).await?.unwrap();
    testbed.unprepare(&before).await?.unwrap();
    assert_eq!(testbed.records()?.len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_or_spec_costs_its_own_claim_until_the_next_call() -> Result<()> {
    let mut testbed = Testbed::start("h100x8").await?;
    let hurt = testbed.allocated("hurt", &[("gpu", ONE)]).await?;
    let well = testbed.allocated("well", &[("gpu", "gpu-0000-43-00")]).await?;
    let ids = testbed.prepare(&hurt).await?.unwrap();
    testbed.prepare(&well).await?.unwrap();
    testbed.kill_driver()?;
    let path = |files: Vec<std::path::PathBuf>| {
        files.into_iter().find(|path| path.to_string_lossy().contains(&hurt.uid)).unwrap()
    };
    let (record, spec) = (path(testbed.records()?), path(testbed.specs()?));
    let precious = testbed.node.path("precious");
    std::fs::write(&precious, "precious")?;
    std::fs::write(&record, "{\"schema\":")?;
    std::fs::remove_file(&spec)?;
    std::os::unix::fs::symlink(&precious, &spec)?;
    back(&mut testbed).await?;
    assert_eq!(testbed.prepare(&hurt).await?.unwrap(), ids);
    assert_eq!(testbed.nodes_of(&ids)?, ["/dev/nvidia0"]);
    assert_eq!(std::fs::read(&precious)?, b"precious", "the link was not followed");
    assert_eq!(testbed.records()?.len(), 2);
    for claim in [&hurt, &well] {
        testbed.unprepare(claim).await?.unwrap();
    }
    nothing_is_left(&testbed)
}
