//! What a driver leaves on its node, and that `aliquot-driver uninstall` takes all of it away, and nothing else.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use aliquot_tests::{
    passthrough::Function,
    testbed::{Result, Testbed},
};
use fake_apiserver::Server;

/// The directories of the node in which a driver writes.
const WRITTEN: [&str; 4] = ["cdi", "run", "kubelet", "hook"];
/// What is another driver's.
const OTHERS: [&str; 4] = [
    "cdi/k8s.gpu.nvidia.com-claim_0f.yaml",
    "kubelet/plugins/gpu.nvidia.com/checkpoint.json",
    "kubelet/plugins_registry/gpu.nvidia.com-reg.sock",
    "run/other.example.com/claims/u1.json",
];

fn uninstall(testbed: &Testbed, arguments: &[&str]) -> Result<Output> {
    Ok(testbed.driver_command("uninstall").args(arguments).output()?)
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// All files and directories in which a driver writes.
fn files(testbed: &Testbed) -> BTreeSet<PathBuf> {
    fn below(dir: &Path, all: &mut BTreeSet<PathBuf>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            all.insert(entry.path());
            if entry.file_type().unwrap().is_dir() {
                below(&entry.path(), all);
            }
        }
    }
    let mut all = BTreeSet::new();
    for dir in WRITTEN {
        below(&testbed.node.path(dir), &mut all);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_life_with_claims_nothing_of_the_driver_is_left_and_all_of_others_is() -> Result<()> {
    let mut testbed = Testbed::without_driver("h100x8", Server::builder()).await?;
    testbed.node.plug(Function::gpu("0000:c1:00.0", "vfio-pci", 12))?;
    testbed.node.open_group(12)?;
    for file in OTHERS {
        let path = testbed.node.path(file);
        fs::create_dir_all(path.parent().unwrap())?;
        fs::write(path, "")?;
    }
    let before = files(&testbed);
    let environment = [("POD_UID", "0f"), ("ALIQUOT_VFIO_ALIAS", "nvidia.com/pgpu")];
    testbed.start_driver(&environment)?;
    testbed.ready().await?;
    let alias = testbed.node.path("cdi/nvidia.com-pgpu_aliquot.json");
    testbed.until("the alias is written", || alias.exists()).await?;
    let [kept, given_back] = ["kept", "given-back"].map(ToOwned::to_owned);
    let kept = testbed.allocated(&kept, &[("gpu", &testbed.whole()[0])]).await?;
    let given_back = testbed.allocated(&given_back, &[("gpu", &testbed.whole()[1])]).await?;
    for claim in [&kept, &given_back] {
        testbed.prepare(claim).await??;
    }
    testbed.unprepare(&given_back).await??;

    let refused = uninstall(&testbed, &[])?;
    assert!(!refused.status.success() && told(&refused).contains("claims prepared (1)"), "{}", told(&refused));
    testbed.unprepare(&kept).await??;
    let refused = uninstall(&testbed, &[])?;
    assert!(!refused.status.success() && told(&refused).contains("a driver serves at"), "{}", told(&refused));
    // Its sockets stay.
    testbed.kill_driver()?;

    let (left, dry) = (files(&testbed), uninstall(&testbed, &["--dry-run"])?);
    assert!(dry.status.success() && told(&dry).contains("would remove"), "{}", told(&dry));
    assert_eq!(files(&testbed), left, "a dry run removes nothing");
    let done = uninstall(&testbed, &[])?;
    assert!(done.status.success(), "{}", told(&done));
    assert_eq!(files(&testbed), before, "{}", told(&done));
    for gone in left.difference(&before).filter(|path| path.parent() == Some(testbed.node.path("cdi").as_path())) {
        assert!(told(&done).contains(&format!("removed {}", gone.display())), "{}", gone.display());
    }
    assert!(!testbed.node.path("hook").exists());

    let again = uninstall(&testbed, &[])?;
    assert!(again.status.success(), "{}", told(&again));
    assert_eq!(told(&again).lines().count(), 1, "{}", told(&again));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_cant_be_read_keeps_everything() -> Result<()> {
    let mut testbed = Testbed::start("h100x8").await?;
    let claim = testbed.allocated("whole", &[("gpu", &testbed.whole()[0])]).await?;
    testbed.prepare(&claim).await??;
    testbed.kill_driver()?;
    let record = testbed.records()?.pop().ok_or("no record")?;
    fs::write(&record, "{")?;
    let before = files(&testbed);
    let refused = uninstall(&testbed, &[])?;
    assert!(!refused.status.success() && told(&refused).contains("claims prepared (1)"), "{}", told(&refused));
    assert_eq!(files(&testbed), before);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_starts_on_a_cleared_node_serves() -> Result<()> {
    let mut testbed = Testbed::start("h100x8").await?;
    testbed.stop_driver()?;
    assert!(uninstall(&testbed, &[])?.status.success());
    testbed.start_driver(&[])?;
    testbed.ready().await?;
    let claim = testbed.allocated("whole", &[("gpu", &testbed.whole()[0])]).await?;
    testbed.prepare(&claim).await??;
    Ok(())
}
