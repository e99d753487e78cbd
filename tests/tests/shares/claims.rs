//! Shares in claims, pods and containers: what may be combined, and what the kubelet and the runtime hear of it.
use std::collections::BTreeSet;

use aliquot_tests::testbed::apply;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn two_shares_of_one_gpu_in_a_claim_are_two_cdi_devices_with_their_ids() -> Result<()> {
    let testbed = Testbed::start("t4x1").await?;
    let (small, large) = (share("small", T4_SHARE, 1, 4), share("large", T4_SHARE, 3, 6));
    let ids = [&small, &large].map(|share| share["shareID"].as_str().unwrap().to_owned());
    let claim = sharing(&testbed, "two", &[small, large]).await?;
    let answer = testbed.kubelet.client(DRIVER)?.prepare(vec![claim.clone()]).await?;
    let devices = &answer.claims[&claim.uid].devices;
    let told: Vec<_> = devices.iter().map(|device| device.share_id.clone().unwrap()).collect();
    assert_eq!(told, ids);
    for ((device, id), (shares, gib)) in devices.iter().zip(&ids).zip([("1", 4), ("3", 6)]) {
        assert_eq!(device.device_name, T4_SHARE);
        let own = format!("{DRIVER}/claim={}-{T4_SHARE}-{id}", claim.uid);
        assert_eq!(device.cdi_device_ids, [NODE_DEVICE.to_owned(), own]);
        assert_eq!(testbed.nodes_of(&device.cdi_device_ids)?, ["/dev/nvidia0"]);
        let env = testbed.env_of(&device.cdi_device_ids)?;
        assert_eq!((env["ALIQUOT_SHARES"].as_str(), env["ALIQUOT_SHARE_MEMORY_BYTES"].parse()), (shares, Ok(gib * GI)));
    }
    let record = testbed.told_by_records()?.remove(0);
    for (held, (shares, gib)) in record["devices"].as_array().unwrap().iter().zip([(1, 4), (3, 6)]) {
        assert_eq!(held["share"]["takes"], json!({"shares": shares, "memory": gib * GI}));
        assert_eq!(held["share"]["of"], json!({"shares": 10, "memory": 15 * GI}));
    }
    testbed.unprepare(&claim).await?.unwrap();
    nothing_is_left(&testbed)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_gpu_by_two_claims_of_one_container_is_there_under_two_names() -> Result<()> {
    let testbed = Testbed::start("t4x1").await?;
    apply(&testbed.client, &templates()).await?;
    let (pod, running) = testbed.run_pod(pod("both", &["share", "share"])).await?;
    let mut ids = running.containers["main"].clone();
    ids.retain(|id| id != NODE_DEVICE);
    assert_eq!((ids.len(), ids.iter().collect::<BTreeSet<_>>().len()), (2, 2), "{ids:?}");
    for id in ids {
        assert_eq!(testbed.nodes_of(&[id])?, ["/dev/nvidia0"]);
    }
    testbed.stop_pod(&pod).await?;
    nothing_is_left(&testbed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_in_one_claim_serves_two_pods_and_counts_once() -> Result<()> {
    let testbed = Testbed::start("t4x1").await?;
    apply(&testbed.client, &[shared_claim()]).await?;
    let (first, one) = testbed.run_pod(pod_of_shared("first")).await?;
    let (second, other) = testbed.run_pod(pod_of_shared("second")).await?;
    assert_eq!(one.containers["main"], other.containers["main"]);
    let held: Vec<Value> = testbed.told_by_records()?.iter().map(|record| record["devices"].clone()).collect();
    assert_eq!(held.len(), 1);
    assert_eq!(held[0][0]["share"]["takes"]["shares"], 1);
    testbed.stop_pod(&first).await?;
    assert_eq!(testbed.nodes_of(&other.containers["main"])?, ["/dev/nvidia0"], "the second pod still has it");
    testbed.stop_pod(&second).await?;
    nothing_is_left(&testbed)
}

#[tokio::test(flavor = "multi_thread")]
async fn administration_looks_at_a_gpu_that_is_shared_and_nobody_else_gets_its_device() -> Result<()> {
    let testbed = Testbed::start("t4x1").await?;
    let holder = sharing(&testbed, "holder", &[share("gpu", T4_SHARE, 10, 15)]).await?;
    testbed.prepare(&holder).await?.unwrap();
    let device = format!("{T4}-admin");
    let mut result = whole("gpu", &device);
    result["adminAccess"] = json!(true);
    let admin = sharing(&testbed, "admin", &[result]).await?;
    let ids = testbed.prepare(&admin).await?.unwrap();
    assert_eq!(testbed.nodes_of(&ids)?, ["/dev/nvidia0"]);
    let plain = sharing(&testbed, "plain", &[whole("gpu", &device)]).await?;
    let error = testbed.prepare(&plain).await?.unwrap_err();
    assert!(error.contains(&device) && error.contains("only for claims with adminAccess: true"), "{error}");
    assert!(error.contains("resource.kubernetes.io/admin-access"), "{error}");
    assert_eq!(testbed.records()?.len(), 2, "nothing is left of the refused claim");
    Ok(())
}
