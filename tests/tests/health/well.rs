//! How long an illness lasts: over restarts of the driver, until the GPU is well or the node is started anew.
use k8s_openapi::api::resource::v1::ResourceSlice;
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn what_nvidias_driver_says_at_the_start_counts_before_anything_is_offered_and_ends_when_it_says_so() -> Result<()>
{
    let mut testbed = Testbed::without_driver("h100x8", Server::builder()).await?;
    let first = testbed.node.profile().gpus[0].uuid.clone();
    let control = Control { recovery: [(first, RESET)].into(), ..Control::default() };
    testbed.node.control(&control)?;
    testbed.start_driver(&QUICK)?;
    testbed.ready().await?;
    let mut ward = Ward { testbed, control };
    ward.until_tainted(&[FIRST]).await?;
    assert_eq!(ward.tainted()[FIRST].0, "reset-gpu");
    let (always, states) = ward.always_tainted_since(0);
    assert!(always && states > 0, "{states}");
    ward.until_health(FIRST, HealthStatus::Unhealthy).await?;

    ward.control.recovery.clear();
    ward.testbed.node.control(&ward.control)?;
    ward.until_tainted(&[]).await?;
    let (object, note) = ward.testbed.event("GPUHealthy").await?;
    assert!(object == format!("Node {NODE}") && note.contains("0000:1b:00.0 is well again"), "{object}: {note}");
    assert_eq!(ward.until_health(FIRST, HealthStatus::Healthy).await?, "");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_illness_outlasts_restarts_of_the_driver_and_ends_with_the_boot() -> Result<()> {
    let mut ward = Ward::start(&SLOW).await?;
    ward.reports(0, 95)?;
    ward.until_tainted(&[FIRST]).await?;
    ward.testbed.event("GPUUnhealthy").await?;
    let (begun, told) = (ward.testbed.api.history("resourceslices").len(), ward.testbed.events("GPUUnhealthy").len());
    ward.testbed.kill_driver()?;
    ward.control.events.clear();
    ward.testbed.node.control(&ward.control)?;
    // Whatever it publishes at the start is to be seen.
    let slices: Api<ResourceSlice> = Api::all(ward.testbed.client.clone());
    slices.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
    ward.testbed.restart_driver(&SLOW).await?;
    ward.until_tainted(&[FIRST]).await?;
    let (always, states) = ward.always_tainted_since(begun);
    assert!(always && states > 0, "{states}");
    assert_eq!(ward.testbed.events("GPUUnhealthy").len(), told, "it is no news");

    ward.testbed.kill_driver()?;
    let boot_id = ward.testbed.node.path("proc/sys/kernel/random/boot_id");
    std::fs::write(boot_id, "7e6a2c4e-3a52-4d52-9d2f-5d2a9a3b1c11\n")?;
    ward.testbed.restart_driver(&SLOW).await?;
    ward.until_tainted(&[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_that_fell_off_the_bus_is_gone_and_comes_back_well() -> Result<()> {
    let mut ward = Ward::start(&QUICK).await?;
    let claim = ward.testbed.allocated("claim", &[("gpu", FIRST)]).await?;
    ward.testbed.prepare(&claim).await?.unwrap();
    ward.control.removed = vec![ward.uuid(0)];
    ward.reports(0, 79)?;
    ward.testbed.until("seven GPUs are left", || ward.testbed.whole().len() == 7).await?;
    ward.until_health(FIRST, HealthStatus::Unhealthy).await?;
    ward.control.removed.clear();
    ward.testbed.node.control(&ward.control)?;
    ward.testbed.until("it is back", || ward.testbed.whole().len() == 8).await?;
    ward.until_tainted(&[]).await?;
    ward.until_health(FIRST, HealthStatus::Healthy).await?;
    Ok(())
}
