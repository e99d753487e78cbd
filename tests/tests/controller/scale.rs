//! A tenth of what `cargo xtask bench --controller` measures: bounded memory, paged reads, and rest.
use std::time::Duration;

use aliquot_tests::{
    bench::controller::{Scale, measure},
    controllers::Stage,
    testbed::Result,
};

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_claims_are_read_in_pages_and_then_nothing_is_asked() -> Result<()> {
    let scale = Scale { nodes: 500, claims: 5_000, dead: 5, stuck: 5 };
    let figures = measure(Stage::start().await?, scale, Duration::from_secs(3)).await?;
    assert!(figures.page <= 250, "{figures:?}");
    // It is 23 MiB; what is kept of each object without need shows at once.
    assert!(figures.peak < 45.0, "{figures:?}");
    assert_eq!(figures.writes, 0, "{figures:?}");
    // Not one in three seconds but for the Lease, of which there may be one.
    assert!(figures.hourly <= 1200.0, "{figures:?}");
    Ok(())
}
