//! What a claim to a virtual machine's GPU brings, and what is refused.
use aliquot_tests::testbed::{apply, documents, pods_and_others};

use super::*;

/// The one spec of a claim.
fn spec(testbed: &Testbed) -> Result<Value> {
    let specs = testbed.specs()?;
    let [path] = &specs[..] else { return Err(format!("not one spec: {specs:?}").into()) };
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_gets_the_group_and_nothing_of_nvidias_driver() -> Result<()> {
    let testbed = started("h100x8").await?;
    let objects = documents(include_str!("../../../deploy/examples/vfio.yaml"))?;
    let (pods, others) = pods_and_others(objects);
    apply(&testbed.client, &others).await?;
    let (pod, running) = testbed.run_pod(pods[0].clone()).await?;
    let ids = &running.containers["main"];
    assert!(matches!(&ids[..], [id] if id.ends_with(DEVICE)), "the node's own device is not among {ids:?}");
    let spec = spec(&testbed)?;
    // What Kata's two shims take: a version that the older knows, and the node as an edit of the device.
    assert_eq!((&spec["cdiVersion"], &spec["kind"]), (&json!("0.5.0"), &json!("gpu.aliquot.dev/claim")));
    let host = testbed.node.path("dev/vfio/12");
    let node = json!({"path": "/dev/vfio/12", "hostPath": host, "fileMode": 438, "permissions": "rw"});
    let edits = json!({"env": ["NVIDIA_VISIBLE_DEVICES=void"], "deviceNodes": [node]});
    assert_eq!((&spec["devices"][0]["containerEdits"], spec.get("containerEdits")), (&edits, None));
    testbed.stop_pod(&pod).await?;
    assert_eq!((testbed.specs()?.len(), testbed.records()?.len()), (0, 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_claim_and_status_say_which_gpu_its_virtual_machine_has() -> Result<()> {
    let testbed = started("t4x1").await?;
    let claim = claim(&testbed, "vm", None).await?;
    prepare(&testbed, &claim).await?.unwrap();
    let told =
        || testbed.api.peek("resourceclaims", "default", "vm").unwrap_or_default()["status"]["devices"][0].clone();
    testbed.until("the claim says what it was given", || told()["data"].is_object()).await?;
    let (place, data) = ("GPU-pci-0000-c1-00-0", told()["data"].clone());
    assert_eq!((&data["pciBusID"], &data["iommuGroup"], &data["uuid"]), (&json!(PLACE), &json!(GROUP), &json!(place)));
    let status = |form: &str| testbed.driver_command("status").args(["-o", form]).output();
    let report: Value = serde_json::from_slice(&status("json")?.stdout)?;
    let gpu = report["gpus"].as_array().unwrap().iter().find(|gpu| gpu["pciBusID"] == PLACE).unwrap();
    assert_eq!((&gpu["iommuGroup"], &gpu["uuid"]), (&json!(GROUP), &json!(place)));
    assert_eq!(report["claims"][0]["devices"][0]["pciBusIDs"], json!([PLACE]));
    let table = String::from_utf8(status("table")?.stdout)?;
    let lines: Vec<&str> = table.lines().collect();
    let card = lines.iter().position(|line| line.contains(PLACE)).unwrap();
    assert!(lines[card + 1].contains("default/vm") && lines[card + 1].contains("virtual machine"), "{table}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn iommufd_and_the_interfaces_node_come_as_the_parameters_say() -> Result<()> {
    let testbed = started("t4x1").await?;
    testbed.node.open_device(PLACE, 3)?;
    let both =
        claim(&testbed, "both", Some(json!({"backendPolicy": "PreferIommuFD", "enableAPIDevice": true}))).await?;
    let ids = prepare(&testbed, &both).await?.unwrap();
    assert_eq!(testbed.nodes_of(&ids)?, ["/dev/vfio/devices/vfio3"]);
    assert_eq!(spec(&testbed)?["containerEdits"]["deviceNodes"][0]["path"], "/dev/iommu");
    assert_eq!(prepare(&testbed, &both).await?.unwrap(), ids, "again, and the same");
    testbed.unprepare(&both).await?.unwrap();
    let legacy = claim(&testbed, "legacy", Some(json!({"enableAPIDevice": true}))).await?;
    assert_eq!(testbed.nodes_of(&prepare(&testbed, &legacy).await?.unwrap())?, ["/dev/vfio/12"]);
    assert_eq!(spec(&testbed)?["containerEdits"]["deviceNodes"][0]["path"], "/dev/vfio/vfio");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_claim_outlives_the_driver_and_keeps_others_out() -> Result<()> {
    let mut testbed = started("t4x1").await?;
    let first = claim(&testbed, "first", None).await?;
    let ids = prepare(&testbed, &first).await?.unwrap();
    testbed.restart_driver(&[("ALIQUOT_PREPARE_BUDGET", "500ms")]).await?;
    assert_eq!(prepare(&testbed, &first).await?.unwrap(), ids);
    std::fs::remove_file(&testbed.specs()?[0])?;
    assert_eq!(prepare(&testbed, &first).await?.unwrap(), ids);
    assert_eq!(testbed.nodes_of(&ids)?, ["/dev/vfio/12"], "the lost spec is written anew");
    let second = claim(&testbed, "second", None).await?;
    let error = prepare(&testbed, &second).await?.unwrap_err();
    assert!(error.contains(DEVICE) && error.contains("default/first"), "{error}");
    testbed.unprepare(&first).await?.unwrap();
    prepare(&testbed, &second).await?.unwrap();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_forms_of_one_gpu_and_wrong_parameters_are_refused_and_leave_nothing() -> Result<()> {
    let mut testbed = with_card("t4x1").await?;
    // The first GPU of NVIDIA's driver shares the card's group.
    let gpu = testbed.node.profile().gpus[0].pci.clone();
    testbed.node.plug(Function::gpu(&gpu, "vfio-pci", GROUP))?;
    testbed.start_driver(&[])?;
    testbed.ready().await?;
    let first = "gpu-0000-00-1e-vfio";
    offered(&testbed, first).await?;
    assert_eq!(testbed.published(), [first], "two GPUs of one group are one device, named after the first");
    let twice = testbed.allocated("twice", &[("a", first), ("b", first)]).await?;
    assert!(prepare(&testbed, &twice).await?.unwrap_err().contains("allocated twice"));
    let shared = testbed.allocated("shared", &[("a", first), ("b", "gpu-0000-00-1e-shared")]).await?;
    assert!(prepare(&testbed, &shared).await?.unwrap_err().contains("gpu-0000-00-1e-shared is not on this node"));
    let result = json!({"driver": DRIVER, "pool": format!("{DRIVER}/{NODE}"), "device": first, "request": "gpu"});
    let parameters = json!({"apiVersion": "gpu.aliquot.dev/v1alpha1", "kind": "GpuConfig"});
    let opaque = json!({"driver": DRIVER, "parameters": parameters});
    let config = json!([{"source": "FromClaim", "requests": ["gpu"], "opaque": opaque}]);
    let wrong = testbed.allocated_as("wrong", json!({"devices": {"results": [result], "config": config}})).await?;
    let error = prepare(&testbed, &wrong).await?.unwrap_err();
    assert!(error.contains("GpuConfig") && error.contains("takes a VfioConfig"), "{error}");
    assert_eq!((testbed.specs()?.len(), testbed.records()?.len()), (0, 0));
    let good = testbed.allocated("good", &[("a", first)]).await?;
    assert_eq!(testbed.nodes_of(&prepare(&testbed, &good).await?.unwrap())?, ["/dev/vfio/12"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_that_has_gone_since_it_was_allocated_says_where_to_look() -> Result<()> {
    let testbed = started("t4x1").await?;
    let claim = claim(&testbed, "vm", None).await?;
    std::fs::rename(testbed.node.path("dev/vfio/12"), testbed.node.path("dev/vfio/gone"))?;
    let error = prepare(&testbed, &claim).await?.unwrap_err();
    // By what is read then, or by what was read before.
    assert!(error.contains("dev/vfio/12"), "{error}");
    assert_eq!((testbed.specs()?.len(), testbed.records()?.len()), (0, 0));
    std::fs::rename(testbed.node.path("dev/vfio/gone"), testbed.node.path("dev/vfio/12"))?;
    offered(&testbed, DEVICE).await?;
    prepare(&testbed, &claim).await?.unwrap();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn by_annotation_it_is_the_number_of_the_card_for_as_long_as_it_can_be_had() -> Result<()> {
    let mut testbed = with_card("t4x1").await?;
    testbed.start_driver(&[("ALIQUOT_VFIO_ALIAS", "nvidia.com/pgpu")])?;
    testbed.ready().await?;
    let file = testbed.node.path("cdi/nvidia.com-pgpu_aliquot.json");
    testbed.until("the file is there", || file.exists()).await?;
    let spec: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
    let device = &spec["devices"][0];
    assert_eq!((&spec["kind"], &device["name"]), (&json!("nvidia.com/pgpu"), &json!("0")));
    assert_eq!(device["containerEdits"]["deviceNodes"][0]["path"], "/dev/vfio/12");
    testbed.node.close_group(GROUP)?;
    testbed.until("the file is gone", || !file.exists()).await
}
