//! What a newcomer sees first: every example runs in the playground.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
use aliquot_tests::{playground::Playground, testbed::Result};

#[tokio::test(flavor = "multi_thread")]
async fn every_example_is_allocated_and_given_its_devices() -> Result<()> {
    let text = Playground::start().await?.show().await?;
    let examples = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/examples"))?;
    assert!(examples.count() > 10);
    for device in ["gpu-0000-1b-00", "gpu-0000-1b-00-shared", "gpu-0000-f1-00-vfio"] {
        assert!(text.contains(device), "{device} is not in\n{text}");
    }
    for pod in ["one-gpu", "share", "vfio", "no-claim"] {
        assert!(text.lines().any(|line| line.trim_start().starts_with(pod)), "pod {pod} is not in\n{text}");
    }
    Ok(())
}
