//! The two text formats, by what the client asks for.
use aliquot_tests::testbed::{Result, Testbed};

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_openmetrics_gets_it_and_others_get_prometheus_text() -> Result<()> {
    let testbed = Testbed::start("h100x8").await?;
    let open = testbed.get_as("/metrics", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5").await?;
    assert!(open.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"));
    assert!(open.ends_with("# EOF\n") && open.contains("\n# TYPE hw_energy_joules counter\n"));
    assert!(open.contains("\n# UNIT hw_power_watts watts\n"));
    let text = testbed.get("/metrics").await?;
    assert!(text.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"));
    assert!(
        !text.contains("# EOF")
            && !text.contains("# UNIT")
            && text.contains("\n# TYPE hw_energy_joules_total counter\n")
    );
    Ok(())
}
