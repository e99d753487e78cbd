//! Claims that were allocated a GPU just before it fell ill.
use serde_json::json;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_refused_where_nothing_can_run_and_else_its_pod_is_warned() -> Result<()> {
    let mut ward = Ward::start(&SLOW).await?;
    ward.reports(0, 79)?;
    ward.reports(1, 95)?;
    ward.until_tainted(&[FIRST, SECOND]).await?;
    let fatal = ward.testbed.allocated("fatal", &[("gpu", FIRST)]).await?;
    let refusal = ward.testbed.prepare(&fatal).await?.unwrap_err();
    for words in [FIRST, "Xid 79", "Delete this pod"] {
        assert!(refusal.contains(words), "{words}: {refusal}");
    }
    assert_eq!(ward.testbed.records()?.len(), 0);
    let warned = ward.testbed.allocated("warned", &[("gpu", SECOND)]).await?;
    ward.testbed.prepare(&warned).await?.unwrap();
    let on_claim =
        |event: &Value| event["regarding"]["name"] == "warned" && event["note"].to_string().contains("Xid 95");
    ward.testbed.until("its users are told", || ward.testbed.events("GPUUnhealthy").iter().any(on_claim)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_looks_after_gpus_gets_the_ill_ones_too() -> Result<()> {
    let mut ward = Ward::start(&SLOW).await?;
    ward.reports(0, 79)?;
    ward.until_tainted(&[FIRST]).await?;
    let result = json!({"driver": DRIVER, "pool": format!("{DRIVER}/{NODE}"), "device": format!("{FIRST}-admin"),
        "request": "gpu", "adminAccess": true});
    let claim = ward.testbed.allocated_as("admin", json!({"devices": {"results": [result]}})).await?;
    ward.testbed.prepare(&claim).await?.unwrap();
    Ok(())
}
