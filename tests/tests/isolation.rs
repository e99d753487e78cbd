//! The isolation suite's short form: what containers can reach of GPUs that aren't theirs is nothing.
use aliquot_tests::{
    isolation::{self, Plan},
    skip::toolbox,
    testbed::Result,
};

#[tokio::test(flavor = "multi_thread")]
async fn no_container_reaches_a_device_that_it_was_not_given() -> Result<()> {
    let Some(toolbox) = toolbox() else { return Ok(()) };
    let plan = Plan { pods: 8, images_once: true, ..Plan::everything() };
    let tally = isolation::run(toolbox, &plan).await?;
    println!("{tally}");
    assert!(tally.is_isolated(), "{tally}");
    Ok(())
}
