//! GPUs for virtual machines: what is offered of a node's IOMMU groups, and what a claim brings its runtime.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod dynamic;
mod lost;
mod offer;
mod prepare;
mod unclean;

use aliquot_tests::{
    passthrough::Function,
    testbed::{DRIVER, NODE, Result, Testbed},
};
use fake_apiserver::Server;
use kubelet_api::dra::v1::Claim;
use serde_json::{Value, json};

/// A card that vfio-pci has, beside the GPUs of a profile.
const PLACE: &str = "0000:c1:00.0";
const DEVICE: &str = "gpu-0000-c1-00-vfio";
const GROUP: u32 = 12;

/// A node with one such card, before its driver is started.
async fn with_card(profile: &str) -> Result<Testbed> {
    let testbed = Testbed::without_driver(profile, Server::builder()).await?;
    testbed.node.plug(Function::gpu(PLACE, "vfio-pci", GROUP))?;
    testbed.node.open_group(GROUP)?;
    Ok(testbed)
}

/// The same with the driver.
async fn started(profile: &str) -> Result<Testbed> {
    let mut testbed = with_card(profile).await?;
    testbed.start_driver(&[("ALIQUOT_PREPARE_BUDGET", "500ms")])?;
    testbed.ready().await?;
    offered(&testbed, DEVICE).await?;
    Ok(testbed)
}

/// A claim to the card, with parameters if any are given.
async fn claim(testbed: &Testbed, name: &str, iommu: Option<Value>) -> Result<Claim> {
    let result = json!({"driver": DRIVER, "pool": format!("{DRIVER}/{NODE}"), "device": DEVICE, "request": "gpu"});
    let config = iommu.map(|iommu| {
        let parameters = json!({"apiVersion": "gpu.aliquot.dev/v1alpha1", "kind": "VfioConfig", "iommu": iommu});
        json!({"source": "FromClaim", "requests": ["gpu"], "opaque": {"driver": DRIVER, "parameters": parameters}})
    });
    let config: Vec<Value> = config.into_iter().collect();
    testbed.allocated_as(name, json!({"devices": {"results": [result], "config": config}})).await
}

/// Prepares it: all CDI ids that the kubelet is told, or the driver's error.
async fn prepare(testbed: &Testbed, claim: &Claim) -> Result<std::result::Result<Vec<String>, String>> {
    let answer = testbed.kubelet.client(DRIVER)?.prepare(vec![claim.clone()]).await?;
    let answer = answer.claims.get(&claim.uid).ok_or("the driver gave no answer for the claim")?;
    if !answer.error.is_empty() {
        return Ok(Err(answer.error.clone()));
    }
    Ok(Ok(answer.devices.iter().flat_map(|device| device.cdi_device_ids.clone()).collect()))
}

/// Waits until a device is published; of a pool's slices one comes after the other.
async fn offered(testbed: &Testbed, device: &str) -> Result<()> {
    testbed.until(&format!("{device} is offered"), || is_offered(testbed, device)).await
}

/// Whether a device is published.
fn is_offered(testbed: &Testbed, device: &str) -> bool {
    testbed.published().iter().any(|name| name == device)
}
