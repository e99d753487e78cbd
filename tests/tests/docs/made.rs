//! What is made from the code is as the code has it; `UPDATE_EXPECT=1` writes it anew.
use std::{fs, path::Path};

use aliquot_tests::{picture, reference, testbed::Result};

use super::root;

fn check(path: &Path, now: &str) {
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        return fs::write(path, now).unwrap();
    }
    let written = fs::read_to_string(path).unwrap_or_default();
    assert!(written == now, "{} is not as it would be made now; UPDATE_EXPECT=1 writes it anew", path.display());
}

#[test]
fn the_reference_of_flags_is_that_of_the_programs() {
    check(&root().join("docs/reference/flags.md"), &reference::flags());
}

#[test]
fn the_reference_of_the_policy_file_is_that_of_its_schema() {
    check(&root().join("docs/reference/policy.md"), &reference::policy());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_picture_is_what_the_command_shows() -> Result<()> {
    check(&picture::path(), &picture::draw().await?);
    Ok(())
}
