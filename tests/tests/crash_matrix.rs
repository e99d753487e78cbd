//! The crash matrix's short form: killed at each point, the driver loses nothing, leaves nothing and gives nothing twice.
use aliquot_tests::{
    crash::{self, Plan},
    testbed::Result,
};

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_point_it_loses_nothing_and_leaves_nothing() -> Result<()> {
    let tally = crash::run(&Plan::short()).await?;
    println!("{tally}");
    assert!(tally.is_good(), "{tally}");
    Ok(())
}
