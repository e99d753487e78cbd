//! Records that can't be used: their devices stay held, and the node works on.
use std::os::unix::fs::PermissionsExt as _;

use super::*;

/// A node whose driver finds the record of a claim to [`ONE`] as `change` left it.
async fn with_record(change: impl FnOnce(&std::path::Path)) -> Result<(Testbed, Claim)> {
    let mut testbed = started(&[]).await?;
    let claim = forgotten(&testbed, "hurt", ONE).await?;
    testbed.kill_driver()?;
    change(&testbed.records()?[0]);
    testbed.restart_driver(&[&QUICK[..], &[("ALIQUOT_PREPARE_BUDGET", "1s")]].concat()).await?;
    Ok((testbed, claim))
}

fn cut_short(path: &std::path::Path) {
    let bytes = std::fs::read(path).unwrap();
    std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

/// Checks that the device is kept back and others are not, and that the Node's event says so.
async fn is_kept_back(testbed: &Testbed, reason: &str) -> Result<()> {
    let other = testbed.allocated("other", &[("gpu", TWO)]).await?;
    testbed.prepare(&other).await?.unwrap();
    testbed.unprepare(&other).await?.unwrap();
    let next = testbed.allocated("next", &[("gpu", ONE)]).await?;
    let error = testbed.prepare(&next).await?.unwrap_err();
    assert!(error.contains(ONE) && error.contains("RecordQuarantined"), "{error}");
    testbed.unprepare(&next).await?.unwrap();
    let (regarding, note) = testbed.event("RecordQuarantined").await?;
    assert_eq!(regarding, format!("Node {NODE}"));
    let file = testbed.records()?[0].display().to_string();
    for part in [reason, &file, ONE, "remove the file"] {
        assert!(note.contains(part), "{part}: {note}");
    }
    testbed.until_metric("aliquot_records_quarantined", Some(1)).await
}

async fn is_free(testbed: &Testbed) -> Result<()> {
    let next = testbed.allocated("free", &[("gpu", ONE)]).await?;
    testbed.prepare(&next).await?.unwrap();
    testbed.unprepare(&next).await?.unwrap();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_record_keeps_its_device_until_the_kubelet_unprepares_the_claim() -> Result<()> {
    let (testbed, claim) = with_record(cut_short).await?;
    is_kept_back(&testbed, "cut short").await?;
    rounds(&testbed, ENOUGH).await?;
    assert_eq!((testbed.records()?.len(), testbed.specs()?.len()), (1, 1));
    testbed.unprepare(&claim).await?.unwrap();
    assert!(holds_nothing(&testbed));
    is_free(&testbed).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_with_a_wrong_checksum_is_written_anew_by_a_prepare() -> Result<()> {
    let flip = |path: &std::path::Path| {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[30] ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    let (testbed, claim) = with_record(flip).await?;
    is_kept_back(&testbed, "checksum").await?;
    testbed.prepare(&claim).await?.unwrap();
    testbed.until_metric("aliquot_records_quarantined", Some(0)).await?;
    testbed.unprepare(&claim).await?.unwrap();
    is_free(&testbed).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_others_could_have_written_is_not_trusted() -> Result<()> {
    let open = |path: &std::path::Path| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).unwrap();
    };
    let (testbed, _) = with_record(open).await?;
    is_kept_back(&testbed, "mode 666").await?;
    // An administrator who knows that it is good says so; nobody needs a restart.
    std::fs::set_permissions(&testbed.records()?[0], std::fs::Permissions::from_mode(0o600))?;
    testbed.until_metric("aliquot_records_quarantined", Some(0)).await?;
    assert_eq!(testbed.records()?.len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_who_removes_the_file_frees_the_device() -> Result<()> {
    let (testbed, _) = with_record(|path| std::fs::write(path, "").unwrap()).await?;
    is_kept_back(&testbed, "cut short").await?;
    std::fs::remove_file(&testbed.records()?[0])?;
    is_free(&testbed).await?;
    // Its spec goes as any without a record does.
    swept(&testbed).await.map(drop)
}

fn of_a_later_schema(path: &std::path::Path) {
    let text = std::fs::read_to_string(path).unwrap();
    let json = text.lines().next().unwrap().replacen("\"schema\":1", "\"schema\":3", 1);
    std::fs::write(path, format!("{json}\n{:08x}\n", crc32fast::hash(json.as_bytes()))).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_a_later_schema_is_kept_and_swept_once_its_claim_is_gone() -> Result<()> {
    let (testbed, _) = with_record(of_a_later_schema).await?;
    is_kept_back(&testbed, "schema 3").await?;
    rounds(&testbed, ENOUGH).await?;
    assert_eq!(testbed.records()?.len(), 1, "its claim lives");
    delete(&testbed, "hurt").await?;
    swept(&testbed).await?;
    testbed.until_metric(&removed("gone"), Some(1)).await?;
    is_free(&testbed).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_in_a_damaged_record_is_no_proof_that_its_claim_is_gone() -> Result<()> {
    // Only the checksum is wrong, so that the claim's name can be read; but who knows that it is right.
    let bad_sum = |path: &std::path::Path| {
        let text = std::fs::read_to_string(path).unwrap();
        std::fs::write(path, format!("{}\n00000000\n", text.lines().next().unwrap())).unwrap();
    };
    let (testbed, claim) = with_record(bad_sum).await?;
    delete(&testbed, "hurt").await?;
    rounds(&testbed, ENOUGH).await?;
    assert_eq!(testbed.records()?.len(), 1);
    testbed.unprepare(&claim).await?.unwrap();
    // Where the claim is there under that name and this UID, its allocation is proof.
    let (testbed, _) = with_record(bad_sum).await?;
    allocate(&testbed, "hurt", Value::Null).await?;
    swept(&testbed).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_record_and_spec_the_kubelet_tells_what_is_held() -> Result<()> {
    let mut testbed = started(&[]).await?;
    aliquot_tests::testbed::apply(&testbed.client, &aliquot_tests::objects::templates()).await?;
    let (made, _) = testbed.run_pod(aliquot_tests::objects::pod("a", &["whole"])).await?;
    testbed.kill_driver()?;
    let record = testbed.records()?.remove(0);
    std::fs::write(&record, "")?;
    std::fs::remove_file(testbed.specs()?.remove(0))?;
    testbed.restart_driver(&[&QUICK[..], &[("ALIQUOT_PREPARE_BUDGET", "1s")]].concat()).await?;
    rounds(&testbed, 2).await?;
    let held: Vec<String> = testbed.api.peek_all("resourceclaims")[0]["status"]["allocation"]["devices"]["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|result| result["device"].as_str().unwrap().to_owned())
        .collect();
    let next = testbed.allocated("next", &[("gpu", &held[0])]).await?;
    let error = testbed.prepare(&next).await?.unwrap_err();
    assert!(error.contains("RecordQuarantined"), "{error}");
    testbed.unprepare(&next).await?.unwrap();
    testbed.kubelet.stop_pod(made.metadata.uid.as_deref().unwrap()).await?;
    assert!(holds_nothing(&testbed));
    Ok(())
}
