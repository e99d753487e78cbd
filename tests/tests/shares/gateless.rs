//! A scheduler that doesn't know of shares, beside an API server that stores them: it takes a shared device for one like
//! any other, and writes no account of what it gave.
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_share_that_is_all_of_a_gpu_is_told_to_its_user_and_on_the_node_and_nobody_else_gets_any() -> Result<()> {
    let testbed = impatient("t4x1").await?;
    let user = sharing(&testbed, "user", &[whole("gpu", T4_SHARE)]).await?;
    let ids = testbed.prepare(&user).await?.unwrap();
    let env = testbed.env_of(&ids)?;
    assert_eq!((env["ALIQUOT_SHARES"].as_str(), env["ALIQUOT_SHARE_MEMORY_BYTES"].parse()), ("10", Ok(15 * GI)));
    testbed.until("both are told", || testbed.events("ShareIsWhole").len() == 2).await?;
    let events = testbed.events("ShareIsWhole");
    let mut regarding: Vec<_> =
        events.iter().map(|event| (&event["regarding"]["kind"], &event["regarding"]["name"])).collect();
    regarding.sort_by_key(|(kind, _)| kind.to_string());
    assert_eq!(regarding, [(&json!("Node"), &json!(NODE)), (&json!("ResourceClaim"), &json!("user"))]);
    for event in &events {
        let note = event["note"].as_str().unwrap();
        assert!(note.contains(T4_SHARE) && note.contains("DRAConsumableCapacity"), "{note}");
        assert_eq!(event["type"], "Warning");
    }
    // It counts neither shares nor counters, so it may give the same GPU to others; the node doesn't.
    for (name, result) in [("whole", whole("gpu", T4)), ("share", share("gpu", T4_SHARE, 1, 1))] {
        let claim = sharing(&testbed, name, &[result]).await?;
        let error = testbed.prepare(&claim).await?.unwrap_err();
        assert!(error.contains("default/user"), "{name}: {error}");
    }
    testbed.unprepare(&user).await?.unwrap();
    nothing_is_left(&testbed)
}
