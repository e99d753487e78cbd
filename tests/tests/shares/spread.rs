//! `order: spread`: the next share is of the GPU with the fewest, and two instances of the driver agree on which that is.
use std::time::Duration;

use aliquot_tests::{
    policies::{file, prepared},
    testbed::{apply, end},
};
use k8s_openapi::api::core::v1::Pod;

use super::*;

/// The shared devices of profile l40sx2.
const FIRST: &str = "gpu-0000-17-00-shared";
const SECOND: &str = "gpu-0000-ca-00-shared";

async fn spreading() -> Result<Testbed> {
    let mut testbed = prepared("l40sx2", "[{offer: [shares], shares: {order: spread}}]").await?;
    let policy = file(&testbed);
    testbed.start_driver(&[("ALIQUOT_POLICY", policy.to_str().unwrap()), ("POD_UID", "11111111-aaaa")])?;
    testbed.ready().await?;
    apply(&testbed.client, &templates()).await?;
    Ok(testbed)
}

/// The GPUs in the order in which a scheduler tries them.
fn order(testbed: &Testbed) -> Vec<String> {
    testbed.published().into_iter().filter(|name| name.ends_with("-shared")).collect()
}

/// How often slices were written anew.
fn updates(testbed: &Testbed) -> usize {
    let update = ("update".to_owned(), "resourceslices".to_owned());
    testbed.api.requests().get(&update).copied().unwrap_or_default()
}

/// Runs a pod with a share; where its share is.
async fn runs(testbed: &Testbed, name: &str) -> Result<(Pod, String)> {
    let (pod, running) = testbed.run_pod(pod(name, &["share"])).await?;
    Ok((pod, testbed.nodes_of(&running.containers["main"])?.concat()))
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_go_to_the_gpu_with_the_fewest() -> Result<()> {
    let testbed = spreading().await?;
    assert_eq!(order(&testbed), [FIRST, SECOND]);
    let (first, on) = runs(&testbed, "a").await?;
    testbed.until("the other one comes first", || order(&testbed) == [SECOND, FIRST]).await?;
    let (_, other) = runs(&testbed, "b").await?;
    assert_ne!(on, other);
    testbed.until("both have one share", || order(&testbed) == [FIRST, SECOND]).await?;
    testbed.stop_pod(&first).await?;
    // The first one has none now, and comes first as it did: nothing is written.
    let before = updates(&testbed);
    let (_, again) = runs(&testbed, "c").await?;
    assert_eq!((again, updates(&testbed)), (on, before));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_come_to_agree_on_the_order_and_rest() -> Result<()> {
    let mut testbed = spreading().await?;
    let policy = file(&testbed);
    let mut new =
        testbed.another_driver(&[("ALIQUOT_POLICY", policy.to_str().unwrap()), ("POD_UID", "22222222-bbbb")])?;
    testbed.until("both are registered", || testbed.log().matches("registered with the kubelet").count() == 2).await?;
    let before = updates(&testbed);
    // The kubelet asks the new one; the old one hears of no claim, and yet must not contradict it.
    runs(&testbed, "a").await?;
    testbed.until("the other GPU comes first", || order(&testbed) == [SECOND, FIRST]).await?;
    // Longer than it takes to publish anew what somebody else has changed.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let written = testbed.api.writes();
    assert_eq!((order(&testbed), updates(&testbed)), (vec![SECOND.to_owned(), FIRST.to_owned()], before + 1));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((testbed.api.writes(), updates(&testbed)), (written, before + 1));
    // What is published stays right when the old one ends, and the new one goes on.
    assert!(testbed.stop_driver()?.success());
    runs(&testbed, "b").await?;
    testbed.until("both have one share", || order(&testbed) == [FIRST, SECOND]).await?;
    end(&new)?;
    assert!(new.wait()?.success());
    Ok(())
}
