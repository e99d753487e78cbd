//! The crash matrix's short form: ended in any way, the driver loses nothing, leaves nothing and gives nothing twice.
use aliquot_driver::fault::Point;
use aliquot_tests::{
    crash::{self, Churn, Plan, Way},
    testbed::Result,
};

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_point_it_loses_nothing_and_leaves_nothing() -> Result<()> {
    let tally = crash::run(&Plan::short()).await?;
    println!("{tally}");
    assert!(tally.is_good(), "{tally}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_stood_still_in_a_prepare_takes_nothing_from_the_one_that_served_meanwhile() -> Result<()> {
    let points = vec![Point::PrepareBegun, Point::Reserved, Point::SpecBegun, Point::SpecWritten];
    let tally = crash::run(&Plan { points, ways: vec![Way::Stopped], ..Plan::short() }).await?;
    println!("{tally}");
    assert!(tally.is_good(), "{tally}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_that_come_and_go_while_drivers_are_killed_leave_nothing() -> Result<()> {
    let sum = crash::churn(Churn { seed: 1, claims: 120 }).await?;
    println!("{sum}");
    assert!(sum.is_good(), "{sum}");
    Ok(())
}
