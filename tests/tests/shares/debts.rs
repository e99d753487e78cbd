//! Time slices that couldn't be given back when their claim left: told, written down, and given back by and by.
use std::path::PathBuf;

use aliquot_tests::{crash::disk::Disks, skip::skip};

use super::{time_slices::*, *};

/// A node whose GPU keeps the time slice of a claim that is gone, as nvidia-smi refuses to set it.
async fn owing(name: &str) -> Result<Testbed> {
    let testbed = Testbed::start("t4x1").await?;
    let claim = wishing(&testbed, name, "Short").await?;
    testbed.prepare(&claim).await?.unwrap();
    testbed.node.refuse_time_slices(3)?;
    testbed.unprepare(&claim).await?.unwrap();
    nothing_is_left(&testbed)?;
    Ok(testbed)
}

fn debts(testbed: &Testbed) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(testbed.node.path("run").join(DRIVER).join("time-slices"));
    entries.into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
}

async fn given_back(testbed: &Testbed) -> Result<()> {
    testbed.until("it is given back", || set(testbed) == [1, 0] && debts(testbed).is_empty()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_given_back_is_told_and_tried_again_until_it_is() -> Result<()> {
    let testbed = owing("wishing").await?;
    let (object, note) = testbed.event("TimeSliceNotRestored").await?;
    assert!(object == format!("Node {NODE}") && note.contains("--set-timeslice 0"), "{object}: {note}");
    testbed.until("it is tried again", || testbed.log().matches("keeps the time slice of a claim").count() > 2).await?;
    assert_eq!(testbed.events("TimeSliceNotRestored").len(), 1, "it is told once");
    testbed.node.allow_time_slices()?;
    given_back(&testbed).await?;
    let (object, note) = testbed.event("TimeSliceRestored").await?;
    let uuid = &testbed.node.profile().gpus[0].uuid;
    assert!(object == format!("Node {NODE}") && note.contains(uuid), "{object}: {note}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_ends_leaves_it_to_the_next_one_and_status_shows_it_meanwhile() -> Result<()> {
    let mut testbed = owing("wishing").await?;
    testbed.kill_driver()?;
    let status = |output: &str| -> Result<String> {
        Ok(String::from_utf8(testbed.driver_command("status").args(["-o", output]).output()?.stdout)?)
    };
    let uuid = testbed.node.profile().gpus[0].uuid.clone();
    let table = status("table")?;
    assert!(
        table.contains(&format!("GPU {uuid} keeps the time slice of a claim that is gone: nvidia-smi says")),
        "{table}"
    );
    let json: Value = serde_json::from_str(&status("json")?)?;
    assert_eq!(json["timeSlicesOwed"][0]["gpu"], uuid.as_str(), "{json}");
    testbed.node.allow_time_slices()?;
    assert_eq!(set(&testbed), [1]);
    testbed.start_driver(&[])?;
    given_back(&testbed).await?;
    let report = testbed.driver_command("status").args(["-o", "json"]).output()?;
    assert!(!String::from_utf8(report.stdout)?.contains("timeSlicesOwed"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_claim_on_the_gpu_has_its_own_and_settles_it() -> Result<()> {
    let testbed = owing("first").await?;
    testbed.node.allow_time_slices()?;
    let next = wishing(&testbed, "next", "Long").await?;
    testbed.prepare(&next).await?.unwrap();
    testbed.until("nothing is owed", || debts(&testbed).is_empty()).await?;
    assert_eq!(set(&testbed).last(), Some(&3));
    testbed.unprepare(&next).await?.unwrap();
    assert_eq!(set(&testbed).last(), Some(&0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reboot_nothing_is_owed_even_where_run_outlives_it() -> Result<()> {
    let mut testbed = owing("wishing").await?;
    testbed.kill_driver()?;
    let [debt]: [PathBuf; 1] = debts(&testbed).try_into().map_err(|all| format!("{all:?}"))?;
    let bytes = std::fs::read(&debt)?;
    testbed.node.reboot()?;
    std::fs::create_dir_all(debt.parent().unwrap())?;
    std::fs::write(&debt, bytes)?;
    testbed.restart_driver(&[]).await?;
    testbed.ready().await?;
    assert!(debts(&testbed).is_empty() && set(&testbed).is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_leaves_a_full_disk_and_its_time_slice_is_given_back_all_the_same() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        skip("mounts need root");
        return Ok(());
    }
    let mut testbed = Testbed::without_driver("t4x1", Server::builder()).await?;
    let run = testbed.node.path("run");
    let disks = Disks::mount(std::slice::from_ref(&run))?;
    let launcher = disks.launcher();
    testbed.start_driver_by(&launcher.iter().map(String::as_str).collect::<Vec<_>>())?;
    testbed.ready().await?;
    let claim = wishing(&testbed, "wishing", "Short").await?;
    testbed.prepare(&claim).await?.unwrap();
    testbed.node.refuse_time_slices(3)?;
    disks.fill(&run)?;
    testbed.unprepare(&claim).await?.unwrap();
    assert!(testbed.log().contains("No space left on device"), "{}", testbed.log());
    testbed.node.allow_time_slices()?;
    testbed.until("it is given back", || set(&testbed) == [1, 0]).await
}
