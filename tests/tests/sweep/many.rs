//! Ten thousand records: bounded time, and bounded questions.
use super::*;

const MANY: usize = 10_000;

/// Writes the record of a claim as the driver does, with administration access to a GPU, so that all fit beside each other.
fn record(testbed: &Testbed, number: usize) -> std::io::Result<()> {
    let boot = std::fs::read_to_string(testbed.node.path("proc/sys/kernel/random/boot_id"))?;
    let (uid, gpu) = (format!("uid-{number}"), &testbed.node.profile().gpus[0]);
    let held = json!({"request": "gpu", "pool": format!("{DRIVER}/{NODE}"), "device": ONE, "gpu": gpu.uuid, "minor": 0,
        "adminAccess": true, "cdiId": format!("{DRIVER}/claim={uid}-{ONE}")});
    let record = json!({"schema": 1, "bootId": boot.trim(), "state": "preparing", "devices": [held],
        "claim": {"namespace": "default", "name": format!("claim-{number}"), "uid": uid}});
    let json = record.to_string();
    let path = testbed.node.path("run").join(DRIVER).join("claims").join(format!("{uid}.json"));
    std::fs::write(path, format!("{json}\n{:08x}\n", crc32fast::hash(json.as_bytes())))
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_stale_records_are_removed_in_bounded_time_with_three_questions_each() -> Result<()> {
    let mut testbed = started(&[]).await?;
    testbed.kill_driver()?;
    for number in 0..MANY {
        record(&testbed, number)?;
    }
    let begun = Instant::now();
    testbed.restart_driver(&QUICK).await?;
    eprintln!("{MANY} records: the driver serves after {:?}", begun.elapsed());
    let (gets, lists) = (asked(&testbed), testbed.kubelet.lists());
    // A claim is prepared in the midst of it.
    let claim = testbed.allocated("meanwhile", &[("gpu", TWO)]).await?;
    let preparing = Instant::now();
    testbed.prepare(&claim).await?.unwrap();
    eprintln!("a prepare meanwhile takes {:?}", preparing.elapsed());
    let deadline = Instant::now() + Duration::from_mins(5);
    while testbed.records()?.len() > 1 {
        assert!(Instant::now() < deadline, "{} records are left\n{}", testbed.records()?.len(), testbed.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (gets, lists) = (asked(&testbed) - gets, testbed.kubelet.lists() - lists);
    eprintln!("{MANY} records are removed after {:?}, with {gets} reads of claims and {lists} lists", begun.elapsed());
    assert!(gets <= 3 * MANY + 10, "{gets}");
    // What is told is bounded as well.
    assert!(testbed.api.writes() < 2000, "{}", testbed.api.writes());
    Ok(())
}
