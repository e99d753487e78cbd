//! Pods that are evicted for what they use, through the API.
use fake_apiserver::{Fault, Trouble};

use super::*;

fn evictions(testbed: &Testbed) -> usize {
    testbed.api.requests().get(&("create".to_owned(), "pods/eviction".to_owned())).copied().unwrap_or_default()
}

fn is_there(testbed: &Testbed, pod: &str) -> bool {
    testbed.api.peek("pods", "default", pod).is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pod_that_uses_too_much_is_evicted_once_and_told_why() -> Result<()> {
    let testbed = guarded("t4x1", "evict", "100ms").await?;
    let (hog, other) = (run(&testbed, "hog", &["share"]).await?, run(&testbed, "other", &["share"]).await?);
    let mut users = Users::of(&testbed);
    let (large, within) = (users.using(Some(&hog), 4 * GI)?, users.using(Some(&other), GI)?);
    let (object, note) = testbed.event("ShareMemoryEvicted").await?;
    assert_eq!(object, "Pod hog");
    for words in ["4.0 GiB", "1.5 GiB", &claims_of(&testbed, "hog")[0], "The pod is evicted."] {
        assert!(note.contains(words), "{words}: {note}");
    }
    // Its processes end when the kubelet ends them.
    looks(20).await;
    assert_eq!((evictions(&testbed), is_there(&testbed, "hog"), is_there(&testbed, "other")), (1, false, true));
    assert!(users.is_alive(large) && users.is_alive(within));
    assert_eq!(told(&testbed).len(), 1);
    testbed.until_metric(&done("evicted"), Some(1)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_eviction_that_a_budget_forbids_is_tried_again_and_told_in_one_event() -> Result<()> {
    let testbed = guarded("t4x1", "evict", "100ms").await?;
    let hog = run(&testbed, "hog", &["share"]).await?;
    let trouble = Trouble::Error(429, Some(1));
    let fault = Fault { verb: "create".into(), resource: "pods/eviction".into(), times: 3, trouble };
    testbed.api.inject(fault);
    let mut users = Users::of(&testbed);
    let pid = users.using(Some(&hog), 4 * GI)?;
    let (object, note) = testbed.event("ShareMemoryExceeded").await?;
    assert!(object == "Pod hog" && note.contains("can't be evicted yet, which is tried again"), "{note}");
    testbed.event("ShareMemoryEvicted").await?;
    assert!(!is_there(&testbed, "hog") && users.is_alive(pid));
    assert_eq!((evictions(&testbed), told(&testbed).len()), (4, 2));
    let refused = testbed.events("ShareMemoryExceeded").remove(0);
    assert_eq!(refused["series"]["count"], 3);
    testbed.until_metric(&done("refused"), Some(3)).await?;
    testbed.until_metric(&done("evicted"), Some(1)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_pod_of_the_same_name_is_not_evicted_for_the_old_one() -> Result<()> {
    let testbed = guarded("t4x1", "evict", "100ms").await?;
    let hog = run(&testbed, "hog", &["share"]).await?;
    let pods: kube::Api<Pod> = kube::Api::namespaced(testbed.client.clone(), "default");
    pods.delete("hog", &kube::api::DeleteParams::default()).await?;
    testbed.create_pod(pod("hog", &[])).await?;
    let mut users = Users::of(&testbed);
    users.using(Some(&hog), 4 * GI)?;
    testbed.until("the eviction was tried", || testbed.log().contains("to be evicted is gone already")).await?;
    assert!(is_there(&testbed, "hog") && told(&testbed).is_empty());
    testbed.until_metric(&done("refused"), Some(0)).await?;
    Ok(())
}
