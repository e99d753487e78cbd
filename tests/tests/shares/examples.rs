//! What users write, as they write it: the examples.
use std::collections::BTreeMap;

use aliquot_tests::testbed::{apply, documents, pods_and_others};
use k8s_openapi::api::core::v1::Pod;

use super::*;

/// What one container gets.
#[derive(Debug)]
struct Got {
    pod: Pod,
    nodes: Vec<String>,
    env: BTreeMap<String, String>,
}

impl Got {
    fn shares(&self) -> (Vec<&str>, &str, u64) {
        let value = |name: &str| self.env.get(name).map_or("", String::as_str);
        let nodes = self.nodes.iter().map(String::as_str).collect();
        (nodes, value("ALIQUOT_SHARES"), value("ALIQUOT_SHARE_MEMORY_BYTES").parse().unwrap_or_default())
    }
}

/// Runs the pods of an example, and says what each container gets, by container.
async fn example(testbed: &Testbed, text: &str) -> Result<Vec<Got>> {
    let (pods, others) = pods_and_others(documents(text)?);
    apply(&testbed.client, &others).await?;
    let mut got = Vec::new();
    for pod in pods {
        let (pod, running) = testbed.run_pod(pod).await?;
        for ids in running.containers.values() {
            got.push(Got { pod: pod.clone(), nodes: testbed.nodes_of(ids)?, env: testbed.env_of(ids)? });
        }
    }
    Ok(got)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_share_example_gives_each_container_what_it_asks_for() -> Result<()> {
    let testbed = Testbed::start("h100x8").await?;
    // A tenth of 81559 MiB, in whole mebibytes.
    let tenth = 8155 << 20;
    let got = example(&testbed, include_str!("../../../deploy/examples/share.yaml")).await?;
    assert_eq!(got[0].shares(), (vec!["/dev/nvidia0"], "1", tenth));
    let got = example(&testbed, include_str!("../../../deploy/examples/share-8gi.yaml")).await?;
    assert_eq!(got[0].shares(), (vec!["/dev/nvidia0"], "1", 8 * GI));
    let got = example(&testbed, include_str!("../../../deploy/examples/share-settings.yaml")).await?;
    assert_eq!(got[0].shares(), (vec!["/dev/nvidia0"], "1", tenth));
    assert_eq!(testbed.node.time_slices(), [(testbed.node.profile().gpus[0].uuid.clone(), 1)]);
    let got = example(&testbed, include_str!("../../../deploy/examples/two-shares.yaml")).await?;
    let both: Vec<_> = got.iter().map(Got::shares).collect();
    assert_eq!(both, [(vec!["/dev/nvidia0"], "1", 8 * GI), (vec!["/dev/nvidia0"], "1", 20 * GI)]);
    let got = example(&testbed, include_str!("../../../deploy/examples/whole-or-shares.yaml")).await?;
    assert_eq!(got[0].shares(), (vec!["/dev/nvidia7"], "", 0));
    let got = example(&testbed, include_str!("../../../deploy/examples/admin.yaml")).await?;
    assert_eq!(got[0].nodes.len(), 8, "all GPUs, held or not");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn where_there_is_no_h100_the_alternative_is_four_shares() -> Result<()> {
    let testbed = Testbed::start("a100x4").await?;
    let got = example(&testbed, include_str!("../../../deploy/examples/whole-or-shares.yaml")).await?;
    // The GPU in the lowest place has minor number 2.
    assert_eq!(got[0].shares(), (vec!["/dev/nvidia2"], "4", 24 * GI));
    assert_eq!(got[0].env["ALIQUOT_SHARES_GPU"], "4");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_replicas_share_one_gpu_and_the_eleventh_waits_for_one_to_leave() -> Result<()> {
    let testbed = Testbed::start("t4x1").await?;
    let got = example(&testbed, include_str!("../../../deploy/examples/replicas.yaml")).await?;
    assert_eq!(got.len(), 10);
    for one in &got {
        // A tenth of 15 GiB.
        assert_eq!(one.shares(), (vec!["/dev/nvidia0"], "1", 1536 << 20));
    }
    let eleventh = testbed.create_pod(pod("eleventh", &["replica"])).await?;
    let error = testbed.scheduler.schedule(&eleventh).await.unwrap_err().to_string();
    assert!(error.contains(&format!("{T4_SHARE} lacks capacity")), "{error}");
    testbed.stop_pod(&got[4].pod).await?;
    let spec = testbed.scheduler.schedule(&eleventh).await?;
    let running = testbed.kubelet.run_pod(spec).await?;
    assert_eq!(testbed.nodes_of(&running.containers["main"])?, ["/dev/nvidia0"]);
    assert_eq!(testbed.records()?.len(), 10);
    Ok(())
}
