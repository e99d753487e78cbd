//! Other DRA drivers, by their slices and by the claims of pods.
use aliquot_tests::testbed::apply;
use k8s_openapi::api::resource::v1::ResourceSlice;
use kube::{Api, api::DeleteParams};
use serde_json::json;

use super::*;

const THEIRS: &str = "gpu.nvidia.com";

/// A slice of another driver on this node with one device.
async fn publish(testbed: &Testbed, name: &str, driver: &str, attributes: Value) -> Result<()> {
    let slice = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": name},
        "spec": {"driver": driver, "nodeName": NODE, "devices": [{"name": "gpu-0", "attributes": attributes}],
            "pool": {"name": NODE, "generation": 1, "resourceSliceCount": 1}}});
    apply(&testbed.client, &[slice]).await?;
    Ok(())
}

async fn withdraw(testbed: &Testbed, name: &str) -> Result<()> {
    let slices: Api<ResourceSlice> = Api::all(testbed.client.clone());
    slices.delete(name, &DeleteParams::default()).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_in_a_slice_of_another_driver_is_tainted_until_the_slice_has_gone() -> Result<()> {
    let (testbed, plugins) = started(&[]).await?;
    publish(&testbed, "nic", "nic.example.com", json!({"pciBusID": {"string": "0000:99:00.0"}})).await?;
    publish(&testbed, "theirs", THEIRS, json!({"uuid": {"string": uuid(&testbed, 1)}})).await?;
    until_tainted(&testbed, &[SECOND]).await?;
    let (object, note) = testbed.event("GPUContested").await?;
    assert_eq!(object, format!("Node {NODE}"));
    for words in ["the DRA driver gpu.nvidia.com", ": 0000:43:00.0.", "resources.gpus.enabled"] {
        assert!(note.contains(words), "{words}: {note}");
    }

    let claim = testbed.allocated("claim", &[("gpu", SECOND)]).await?;
    plugins.claim("default", "theirs", THEIRS, NODE, "gpu-0");
    let error = testbed.prepare(&claim).await?.unwrap_err();
    for words in [SECOND, "pod default/theirs got the GPU from the DRA driver gpu.nvidia.com"] {
        assert!(error.contains(words), "{words}: {error}");
    }
    plugins.end("default", "theirs");
    testbed.prepare(&claim).await?.unwrap();

    withdraw(&testbed, "theirs").await?;
    until_clear(&testbed).await?;
    assert!(testbed.event("GPUUncontested").await?.1.contains("gpu.nvidia.com"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_under_two_names_see_each_other() -> Result<()> {
    let (testbed, _) = started(&[]).await?;
    let run = testbed.node.path("run2");
    let other = [("ALIQUOT_DRIVER_NAME", "gpu2.example.com"), ("ALIQUOT_RUN_ROOT", run.to_str().unwrap())];
    let mut second = testbed.another_driver(&other)?;
    let gpus = testbed.node.profile().gpus.len();
    let of_both = || {
        testbed
            .api
            .peek_all("resourceslices")
            .iter()
            .flat_map(|slice| slice["spec"]["devices"].as_array().cloned().unwrap_or_default())
            .filter(|device| device["taints"].is_array())
            .count()
    };
    let waiting = testbed.until("all GPUs are tainted by both", || of_both() == gpus * 4).await;
    second.kill()?;
    second.wait()?;
    waiting
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_on_other_nodes_is_no_matter() -> Result<()> {
    let (testbed, _) = started(&[]).await?;
    let device = json!({"name": "gpu-0", "attributes": {"pciBusID": {"string": "0000:1b:00.0"}}});
    let slice = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": "far"},
        "spec": {"driver": THEIRS, "nodeName": "node2", "devices": [device],
            "pool": {"name": "node2", "generation": 1, "resourceSliceCount": 1}}});
    apply(&testbed.client, &[slice]).await?;
    publish(&testbed, "near", THEIRS, json!({"pciBusID": {"string": "0000:43:00.0"}})).await?;
    until_tainted(&testbed, &[SECOND]).await
}
