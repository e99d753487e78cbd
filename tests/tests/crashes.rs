//! What the driver makes of a node that isn't as it left it, or isn't fit for it: another boot, damaged files, full disks.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
use std::{os::unix::fs::MetadataExt as _, path::Path, process::Child};

use aliquot_tests::{
    crash::disk::Disks,
    skip::skip,
    testbed::{DRIVER, Result, Testbed},
};
use fake_apiserver::Server;

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

/// A driver that ends with the test.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A driver among small file systems, whose calls end soon.
async fn among(disks: &Disks, testbed: &mut Testbed) -> Result<()> {
    let mut launcher = disks.launcher();
    launcher.extend(["env", "ALIQUOT_PREPARE_BUDGET=1s"].map(ToOwned::to_owned));
    testbed.start_driver_by(&launcher.iter().map(String::as_str).collect::<Vec<_>>())?;
    testbed.ready().await
}

/// What of claims is in a directory among the disks.
fn claims_in(disks: &Disks, dir: &Path) -> Result<Vec<String>> {
    let names = std::fs::read_dir(disks.path(dir))?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<std::io::Result<Vec<String>>>()?;
    names.retain(|name| !["lock", "filler"].contains(&name.as_str()) && !name.ends_with("-driver_node.json"));
    Ok(names)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_fails_claims_with_its_name_lets_others_go_and_is_forgotten_with_room() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        skip("mounts need root");
        return Ok(());
    }
    let mut testbed = Testbed::without_driver("h100x8", Server::builder()).await?;
    let (run, cdi) = (testbed.node.path("run"), testbed.node.path("cdi"));
    let disks = Disks::mount(&[run.clone(), cdi.clone()])?;
    among(&disks, &mut testbed).await?;
    let records = run.join(DRIVER).join("claims");
    let earlier = testbed.allocated("earlier", &[("gpu", ONE)]).await?;
    testbed.prepare(&earlier).await?.unwrap();
    for (full, name) in [(&cdi, "cdi"), (&run, "run")] {
        disks.fill(full)?;
        let claim = testbed.allocated(&format!("with-{name}-full"), &[("gpu", "gpu-0000-43-00")]).await?;
        let error = testbed.prepare(&claim).await?.unwrap_err();
        assert!(error.contains("No space left on device") && error.contains(full.to_str().unwrap()), "{error}");
        assert_eq!(claims_in(&disks, &records)?, [format!("{}.json", earlier.uid)], "no half of it is left");
        assert_eq!(claims_in(&disks, &cdi)?.len(), 1);
        testbed.unprepare(&claim).await?.unwrap();
        assert!(testbed.prepare(&earlier).await?.is_ok());
        disks.free(full)?;
        testbed.prepare(&claim).await?.unwrap();
        testbed.unprepare(&claim).await?.unwrap();
    }
    disks.fill(&cdi)?;
    disks.fill(&run)?;
    testbed.unprepare(&earlier).await?.unwrap();
    assert!(claims_in(&disks, &records)?.is_empty() && claims_in(&disks, &cdi)?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_cdi_directory_fails_claims_both_ways_until_it_can_be_written() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        skip("mounts need root");
        return Ok(());
    }
    let mut testbed = Testbed::without_driver("h100x8", Server::builder()).await?;
    let cdi = testbed.node.path("cdi");
    let disks = Disks::mount(std::slice::from_ref(&cdi))?;
    among(&disks, &mut testbed).await?;
    let earlier = testbed.allocated("earlier", &[("gpu", ONE)]).await?;
    let ids = testbed.prepare(&earlier).await?.unwrap();
    disks.set_read_only(&cdi, true)?;
    let claim = testbed.allocated("claim", &[("gpu", "gpu-0000-43-00")]).await?;
    let error = testbed.prepare(&claim).await?.unwrap_err();
    assert!(error.contains("Read-only file system") && error.contains(cdi.to_str().unwrap()), "{error}");
    assert_eq!(testbed.prepare(&earlier).await?.unwrap(), ids, "what is prepared needs no write");
    let error = testbed.unprepare(&earlier).await?.unwrap_err();
    assert!(error.contains("Read-only file system"), "{error}");
    disks.set_read_only(&cdi, false)?;
    testbed.unprepare(&earlier).await?.unwrap();
    testbed.prepare(&claim).await?.unwrap();
    testbed.unprepare(&claim).await?.unwrap();
    assert!(testbed.records()?.is_empty() && claims_in(&disks, &cdi)?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_driver_with_the_same_sockets_says_so_and_the_first_serves_on() -> Result<()> {
    let testbed = Testbed::start("limits").await?;
    let claim = testbed.allocated("claim", &[("gpu", ONE)]).await?;
    let ids = testbed.prepare(&claim).await?.unwrap();
    let plugin = testbed.node.path("kubelet/plugins").join(DRIVER);
    let sockets = || -> std::io::Result<Vec<u64>> {
        ["dra.sock", "limits.sock"].iter().map(|name| Ok(plugin.join(name).symlink_metadata()?.ino())).collect()
    };
    let before = sockets()?;
    let status = testbed.another_driver(&[])?.wait()?;
    assert!(!status.success());
    let log = testbed.log();
    assert!(log.contains("another aliquot-driver serves this node") && log.contains("--pod-uid"), "{log}");
    assert_eq!(sockets()?, before);
    assert_eq!(testbed.prepare(&claim).await?.unwrap(), ids);
    testbed.unprepare(&claim).await?.unwrap();
    nothing_is_left(&testbed)
}

#[tokio::test(flavor = "multi_thread")]
async fn records_in_a_directory_of_somebody_else_are_not_believed() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        skip("files of others need root");
        return Ok(());
    }
    let testbed = Testbed::without_driver("t4x1", Server::builder()).await?;
    let records = testbed.node.path("run").join(DRIVER).join("claims");
    std::fs::create_dir_all(&records)?;
    std::os::unix::fs::chown(&records, Some(1000), None)?;
    assert!(!testbed.another_driver(&[])?.wait()?.success());
    let log = testbed.log();
    for words in [records.to_str().unwrap(), "belongs to user 1000", "correct that, or name another directory"] {
        assert!(log.contains(words), "{words}: {log}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_records_are_read_at_the_start_in_little_time_and_memory() -> Result<()> {
    const COUNT: usize = 10_000;
    let mut testbed = Testbed::start("h100x8").await?;
    let claim = testbed.allocated("claim", &[("gpu", ONE)]).await?;
    let ids = testbed.prepare(&claim).await?.unwrap();
    testbed.kill_driver()?;
    let (record, spec) = (testbed.records()?.remove(0), testbed.specs()?.remove(0));
    let json = std::fs::read_to_string(&record)?;
    // For administration, as that many can be there beside each other.
    let json = json.lines().next().unwrap().replace("\"minor\":0", "\"minor\":0,\"adminAccess\":true");
    for _ in 0..COUNT {
        let uid = uuid::Uuid::new_v4().to_string();
        let json = json.replace(&claim.uid, &uid);
        let crc = crc32fast::hash(json.as_bytes());
        std::fs::write(record.with_file_name(format!("{uid}.json")), format!("{json}\n{crc:08x}\n"))?;
        let name = spec.file_name().unwrap().to_str().unwrap().replace(&claim.uid, &uid);
        std::fs::write(spec.with_file_name(name), std::fs::read_to_string(&spec)?.replace(&claim.uid, &uid))?;
    }
    let begun = std::time::Instant::now();
    let child = testbed.another_driver(&[])?;
    let pid = child.id();
    let child = Ends(child);
    testbed
        .until("it is registered again", || testbed.log().matches("registered with the kubelet").count() > 1)
        .await?;
    testbed.ready().await?;
    assert_eq!(testbed.prepare(&claim).await?.unwrap(), ids);
    let took = begun.elapsed();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default().trim().to_owned();
    println!("{COUNT} records: ready in {took:?}, {resident}");
    let kilobytes: u64 = resident.trim_end_matches(" kB").parse()?;
    assert!(kilobytes < 100 * 1024, "{resident}");
    assert_eq!(testbed.records()?.len(), COUNT + 1);
    testbed.unprepare(&claim).await?.unwrap();
    drop(child);
    Ok(())
}
