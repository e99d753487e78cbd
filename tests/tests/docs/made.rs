//! What is made from the code is as the code has it; `UPDATE_EXPECT=1` writes it anew.
use std::{collections::BTreeSet, fs, path::Path};

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
fn the_references_are_those_of_the_programs() {
    for (name, page) in reference::pages() {
        check(&root().join("docs/reference").join(name), &page);
    }
}

#[test]
fn every_page_of_the_references_is_made() {
    let made: BTreeSet<String> = reference::pages().into_iter().map(|(name, _)| name.to_owned()).collect();
    let entries = fs::read_dir(root().join("docs/reference")).unwrap();
    let there = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(made, there);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_picture_is_what_the_command_shows() -> Result<()> {
    check(&picture::path(), &picture::draw().await?);
    Ok(())
}
