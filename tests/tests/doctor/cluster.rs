//! What can be wrong in the cluster.
use std::{
    fs,
    time::{Duration, Instant},
};

use aliquot_tests::{
    policies::policy,
    testbed::{ACCOUNT, DRIVER, NODE, Result, apply},
};
use fake_apiserver::{Fault, Server, Trouble};
use k8s_openapi::api::resource::v1::DeviceClass;
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};
use serde_json::json;

use super::{assert_else_well, assert_told, examine, node, run, set_status, well};

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_is_away_silent_or_old_is_told_in_time() -> Result<()> {
    let testbed = well().await?;
    let begun = Instant::now();
    let silent = std::net::TcpListener::bind("127.0.0.1:0")?;
    for (port, fix) in [(1, "KUBECONFIG"), (silent.local_addr()?.port(), "NetworkPolicies")] {
        let kubeconfig = fs::read_to_string(testbed.kubeconfig())?;
        let other = kubeconfig.replace(&testbed.api.url(), &format!("http://127.0.0.1:{port}"));
        let path = testbed.node.path("kubeconfig");
        fs::write(&path, other)?;
        let environment = [("KUBECONFIG", path.to_str().unwrap()), ("ALIQUOT_API_DEADLINE", "500ms")];
        let report = examine(&testbed, &environment)?;
        assert_told(&report, "api-server", "failed", fix);
        assert_eq!(report.1["permissions"].0, "skipped");
        assert_eq!(report.1["gpus"].0, "ok", "what is on the node is judged all the same");
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());

    let old = node("t4x1", Server::builder().version("v1.33.4")).await?;
    assert_told(&examine(&old, &[])?, "api-server", "failed", "1.34");
    set_status(&testbed, json!({"nodeInfo": {"kubeletVersion": "v1.33.1"}})).await?;
    assert_told(&examine(&testbed, &[])?, "kubelet", "failed", "1.34");
    assert_told(&examine(&testbed, &[("NODE_NAME", "other")])?, "kubelet", "failed", "--node-name");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_without_an_answer_costs_its_own_check_only() -> Result<()> {
    let testbed = well().await?;
    let fault = |verb: &str, resource: &str, trouble| Fault {
        verb: verb.to_owned(),
        resource: resource.to_owned(),
        times: 1,
        trouble,
    };
    testbed.api.inject(fault("list", "deviceclasses", Trouble::Error(403, None)));
    testbed.api.inject(fault("list", "resourceslices", Trouble::Silence));
    let report = examine(&testbed, &[("ALIQUOT_API_DEADLINE", "500ms")])?;
    assert_eq!(report.1["device-classes"].0, "skipped");
    assert_eq!(report.1["other-drivers"].0, "skipped");
    assert!(report.1["other-drivers"].1.contains("no answer within 500ms"));
    assert_else_well(&report, &["device-nodes"]);
    testbed.api.inject(fault("dry-run", "resourceslices", Trouble::Error(403, None)));
    assert_told(&examine(&testbed, &[])?, "dra-features", "failed", "dry runs");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn gates_that_are_off_are_named_and_fail_only_where_warnings_do() -> Result<()> {
    let api = Server::builder()
        .drop_field("resourceslices", "spec.devices[].allowMultipleAllocations")
        .drop_field("resourceslices", "spec.sharedCounters");
    let testbed = node("h100x8", api).await?;
    let report = examine(&testbed, &[])?;
    let gates = "--feature-gates=DRAConsumableCapacity=true,DRAPartitionableDevices=true";
    assert_told(&report, "dra-features", "warning", gates);
    assert_else_well(&report, &["dra-features", "device-nodes"]);
    assert_eq!(run(&testbed, &["--strict"], &[])?.status.code(), Some(1));
    if report.1["device-nodes"].0 == "ok" {
        assert_eq!(report.0, 0, "a warning alone is no failure");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn permissions_and_classes_that_are_missing_are_told() -> Result<()> {
    let testbed = well().await?;
    testbed.api.deny("update", "resourceslices");
    testbed.api.deny("delete", "resourceslices");
    let report = examine(&testbed, &[])?;
    assert_told(&report, "permissions", "failed", "kubectl apply -k deploy/base");
    assert_eq!(report.1["permissions"].1, "not allowed to anybody: update/delete resourceslices");
    let classes: Api<DeviceClass> = Api::all(testbed.client.clone());
    classes.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
    assert_told(&examine(&testbed, &[])?, "device-classes", "warning", "kubectl apply -k deploy/base");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn that_pods_cannot_be_evicted_is_told_where_the_policy_wants_it() -> Result<()> {
    let testbed = well().await?;
    testbed.api.deny("create", "pods/eviction");
    assert_eq!(examine(&testbed, &[])?.1["permissions"].0, "ok");
    let file = testbed.node.path("policy.yaml");
    fs::write(&file, policy("[{shares: {guard: {mode: evict}}}]"))?;
    let report = examine(&testbed, &[("ALIQUOT_POLICY", file.to_str().unwrap())])?;
    assert_told(&report, "permissions", "failed", "deploy/components/guard");
    assert_eq!(report.1["permissions"].1, "not allowed to anybody: create pods/eviction");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_no_policy_holds_to_its_node_is_told() -> Result<()> {
    let testbed = well().await?;
    let path = testbed.node.path("account");
    fs::write(&path, testbed.api.kubeconfig_with(ACCOUNT))?;
    let as_account = [("KUBECONFIG", path.to_str().unwrap())];
    let report = examine(&testbed, &as_account)?;
    assert_told(&report, "admission-policy", "warning", "deploy/components/admission-names");
    let (_, found, _) = &report.1["admission-policy"];
    assert!(found.contains(&format!("aliquot:{ACCOUNT} may write")) && found.contains("pool"), "{found}");
    let pool = |node: &str| format!("{DRIVER}/{node}");
    testbed.api.hold(ACCOUNT, NODE, &pool("another-node.aliquot.invalid"));
    let (verdict, found, _) = examine(&testbed, &as_account)?.1["admission-policy"].clone();
    assert!(verdict == "warning" && !found.contains("of another node,"), "{found}");
    testbed.api.hold(ACCOUNT, NODE, &pool(NODE));
    let report = examine(&testbed, &as_account)?;
    assert_eq!(report.1["admission-policy"].0, "ok", "{:?}", report.1["admission-policy"]);
    assert_eq!(report.1["dra-features"].0, "ok", "what is this node's own is taken");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn others_who_hand_out_the_same_gpus_are_told() -> Result<()> {
    let testbed = well().await?;
    let profile = testbed.node.profile();
    let gpu = &profile.gpus[0];
    let device = json!({"name": "gpu-0", "attributes": {"resource.kubernetes.io/pciBusID": {"string": gpu.pci}}});
    let slice = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": "theirs"},
        "spec": {"driver": "gpu.example.com", "nodeName": NODE, "devices": [device],
            "pool": {"name": NODE, "generation": 1, "resourceSliceCount": 1}}});
    apply(&testbed.client, &[slice]).await?;
    let report = examine(&testbed, &[])?;
    assert_told(&report, "other-drivers", "warning", "keep that driver off this node");
    assert!(report.1["other-drivers"].1.contains("gpu.example.com"));
    testbed.kubelet.device_plugins().offer("nvidia.com/gpu", &[&gpu.uuid])?;
    assert_told(&examine(&testbed, &[])?, "other-drivers", "warning", "nvidia.com/gpu.deploy.device-plugin=false");
    Ok(())
}
