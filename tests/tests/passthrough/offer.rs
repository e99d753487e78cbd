//! Which groups are offered, and that this follows the node.
use aliquot_tests::policies::{file, policy, replace};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_card_with_vfio_pci_is_offered_beside_the_gpus_of_nvidias_driver() -> Result<()> {
    let testbed = started("h100x8").await?;
    testbed.until("eight whole GPUs are there, and the card", || testbed.whole().len() == 9).await?;
    let device = testbed.devices().into_iter().find(|device| device.name == DEVICE).unwrap();
    let attributes = device.attributes.unwrap();
    assert_eq!((attributes["iommuGroup"].int, attributes["iommuFDEnabled"].bool), (Some(12), Some(false)));
    assert_eq!(attributes["resource.kubernetes.io/pciBusID"].string.as_deref(), Some(PLACE));
    assert_eq!(device.capacity.unwrap()["addressableMemory"].value.0, "128Gi");
    assert!(device.consumes_counters.is_none(), "nothing else is offered of it");
    let inspected = testbed.node.driver("inspect").args(["-o", "json"]).output()?.stdout;
    assert!(String::from_utf8(inspected)?.contains(DEVICE), "inspect says what is published");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_gpus_are_all_for_virtual_machines_needs_no_driver_of_nvidias() -> Result<()> {
    let mut testbed = with_card("t4x1").await?;
    let gpu = testbed.node.profile().gpus[0].pci.clone();
    testbed.node.plug(Function::gpu(&gpu, "vfio-pci", 3))?;
    testbed.node.open_group(3)?;
    testbed.node.uninstall()?;
    testbed.start_driver(&[])?;
    testbed.ready().await?;
    offered(&testbed, DEVICE).await?;
    assert_eq!(testbed.published(), ["gpu-0000-00-1e-vfio", DEVICE]);
    let claim = claim(&testbed, "vm", None).await?;
    assert_eq!(testbed.nodes_of(&prepare(&testbed, &claim).await?.unwrap())?, ["/dev/vfio/12"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_holds_what_the_host_uses_is_offered_when_that_has_gone() -> Result<()> {
    let mut testbed = with_card("t4x1").await?;
    let disk = Function { pci: "0000:c2:00.0", class: "0x010802", driver: "nvme", group: GROUP };
    testbed.node.plug(disk)?;
    // The group's node is there from its first function on, so that only a look shows what became of the others.
    testbed.start_driver(&[("ALIQUOT_RESCAN_INTERVAL", "1s")])?;
    testbed.ready().await?;
    assert!(!is_offered(&testbed, DEVICE));
    assert!(testbed.log().contains("0000:c2:00.0 with driver nvme is in its IOMMU group"), "{}", testbed.log());
    let claim = claim(&testbed, "early", None).await?;
    let error = prepare(&testbed, &claim).await?.unwrap_err();
    assert!(error.contains("0000:c2:00.0 with driver nvme"), "{error}");
    testbed.node.bind(disk.pci, "vfio-pci")?;
    offered(&testbed, DEVICE).await?;
    prepare(&testbed, &claim).await?.unwrap();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_whose_driver_changes_is_withdrawn_and_comes_back() -> Result<()> {
    let testbed = started("t4x1").await?;
    testbed.node.bind(PLACE, "")?;
    testbed.node.close_group(GROUP)?;
    testbed.until("the card is withdrawn", || !is_offered(&testbed, DEVICE)).await?;
    let events = || testbed.api.peek_all("events");
    testbed.until("it is told", || events().iter().any(|event| event["reason"] == "VfioGPULost")).await?;
    testbed.node.bind(PLACE, "vfio-pci")?;
    testbed.node.open_group(GROUP)?;
    offered(&testbed, DEVICE).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_withholds_it_and_leaves_it_to_who_has_it() -> Result<()> {
    let mut testbed = with_card("t4x1").await?;
    std::fs::create_dir(testbed.node.path("etc"))?;
    replace(&testbed, policy("[{offer: [whole, vfio]}]"))?;
    let path = file(&testbed);
    testbed.start_driver(&[("ALIQUOT_POLICY", path.to_str().unwrap())])?;
    testbed.ready().await?;
    offered(&testbed, DEVICE).await?;
    let claim = claim(&testbed, "vm", None).await?;
    prepare(&testbed, &claim).await?.unwrap();
    replace(&testbed, policy("[{offer: [shares]}]"))?;
    offered(&testbed, "gpu-0000-00-1e-shared").await?;
    assert!(is_offered(&testbed, DEVICE), "a claim holds it");
    testbed.unprepare(&claim).await?.unwrap();
    testbed.until("the card is withheld", || !is_offered(&testbed, DEVICE)).await
}
