//! Slices of nodes that are gone or were made anew.
use aliquot_tests::{
    controllers::{Stage, node, slice},
    testbed::{DRIVER, Result},
};
use fake_apiserver::{Fault, Trouble};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, api::DeleteParams};

use super::{FAST, PATIENT};

const GPUS: [&str; 1] = ["gpu-0000-41-00"];

/// Two nodes, with slices of this driver and another one's.
async fn stage() -> Result<Stage> {
    let stage = Stage::start().await?;
    stage.api.seed("nodes", [node("n1", "u1"), node("n2", "u2")]);
    let all = [("n1", "u1"), ("n2", "u2")];
    stage.api.seed("resourceslices", all.map(|(node, uid)| slice(DRIVER, node, uid, &GPUS)));
    stage.api.seed("resourceslices", all.map(|(node, uid)| slice("other.example.com", node, uid, &GPUS)));
    Ok(stage)
}

async fn delete_node(stage: &Stage, name: &str) -> Result<()> {
    let nodes: Api<Node> = Api::all(stage.client.clone());
    nodes.delete(name, &DeleteParams::default()).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_nodes_slices_go_after_the_grace_and_nothing_else_does() -> Result<()> {
    let stage = stage().await?;
    let replica = stage.replica("a", &FAST)?;
    replica.ready().await?;
    replica.until_metric("aliquot_controller_leader", 1.0).await?;
    delete_node(&stage, "n1").await?;
    stage.until("the slice is gone", || stage.slices().len() == 3).await?;
    stage.until("it is told", || !stage.events("StaleSliceDeleted").is_empty()).await?;
    assert_eq!(stage.slices(), ["n1-other.example.com", "n2-gpu.aliquot.dev", "n2-other.example.com"]);
    let event = &stage.events("StaleSliceDeleted")[0];
    assert_eq!((&event["regarding"]["name"], &event["related"]["name"]), (&"n1".into(), &"n1-gpu.aliquot.dev".into()));
    replica.until_metric("aliquot_controller_slices_deleted_total{reason=\"node_gone\"}", 1.0).await?;
    replica.until_metric("aliquot_controller_stale_slices", 0.0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_nodes_slices_stay_for_the_grace() -> Result<()> {
    let stage = stage().await?;
    let replica = stage.replica("a", &PATIENT)?;
    replica.until_metric("aliquot_controller_leader", 1.0).await?;
    delete_node(&stage, "n1").await?;
    // It has seen it, and waits.
    replica.until_metric("aliquot_controller_stale_slices", 1.0).await?;
    assert_eq!(stage.slices().len(), 4);
    assert_eq!(stage.api.requests().get(&("delete".to_owned(), "resourceslices".to_owned())), None);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn slices_that_belong_to_an_earlier_node_of_the_name_go_and_those_of_the_new_one_stay() -> Result<()> {
    let stage = stage().await?;
    let replica = stage.replica("a", &FAST)?;
    replica.ready().await?;
    delete_node(&stage, "n1").await?;
    stage.api.seed("nodes", [node("n1", "u1-again")]);
    stage.until("the slice is gone", || stage.slices().len() == 3).await?;
    replica.until_metric("aliquot_controller_slices_deleted_total{reason=\"node_replaced\"}", 1.0).await?;
    stage.api.seed("resourceslices", [slice(DRIVER, "n1", "u1-again", &GPUS)]);
    replica.until_metric("aliquot_controller_watched{resource=\"resourceslices\"}", 2.0).await?;
    replica.until_metric("aliquot_controller_stale_slices", 0.0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_answer_about_the_node_nothing_is_deleted() -> Result<()> {
    let stage = stage().await?;
    // Of a proxy, or of a server that doesn't know the resource: it names no object.
    for code in [500, 403, 404, 429] {
        let fault =
            Fault { verb: "get".into(), resource: "nodes".into(), times: 1, trouble: Trouble::Error(code, None) };
        stage.api.inject(fault);
    }
    // The last one goes on until it is seen that nothing was deleted.
    let garbage = Fault { verb: "get".into(), resource: "nodes".into(), times: usize::MAX, trouble: Trouble::Garbage };
    stage.api.inject(garbage);
    let replica = stage.replica("a", &FAST)?;
    replica.ready().await?;
    delete_node(&stage, "n1").await?;
    let asked = || stage.api.requests().get(&("get".to_owned(), "nodes".to_owned())).copied().unwrap_or_default();
    stage.until("it was asked in vain, once more than it takes to have judged each answer", || asked() >= 6).await?;
    assert_eq!(stage.slices().len(), 4);
    stage.api.heal();
    stage.until("an answer counts", || stage.slices().len() == 3).await?;
    let failures = replica.metric("aliquot_controller_api_failures_total{call=\"get a Node\"}").await?;
    assert!(failures.is_some_and(|failures| failures >= 5.0), "{failures:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_only_the_watch_lost_keeps_its_slices() -> Result<()> {
    let stage = Stage::start().await?;
    stage.api.seed("resourceslices", [slice(DRIVER, "n1", "u1", &GPUS)]);
    // The list comes before the node, and the watch after it never does.
    stage.api.inject(Fault { verb: "watch".into(), resource: "nodes".into(), times: 1, trouble: Trouble::Silence });
    let replica = stage.replica("a", &["--slice-grace=3s"])?;
    replica.ready().await?;
    replica.until_metric("aliquot_controller_stale_slices", 1.0).await?;
    stage.api.seed("nodes", [node("n1", "u1")]);
    let asked = || stage.api.requests().get(&("get".to_owned(), "nodes".to_owned())).copied().unwrap_or_default();
    stage.until("the node was looked at", || asked() >= 2).await?;
    assert_eq!(stage.slices().len(), 1);
    Ok(())
}
