//! The policy file: what it says comes to be without a restart, what is wrong with it changes nothing, and what claims
//! hold stays theirs meanwhile.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod check;
mod gpus;
mod holders;
mod refused;
mod reload;
mod shuffled;

use std::{
    fs,
    time::{Duration, Instant},
};

use aliquot_tests::{
    objects::{pod, share, sharing, template, templates, whole},
    policies::{file, policy, prepared, replace},
    testbed::{NODE, Result, Testbed, apply},
};

/// The GPU of profile t4x1, which has 15 GiB.
const T4: &str = "gpu-0000-00-1e";
const T4_SHARE: &str = "gpu-0000-00-1e-shared";
const T4_ADMIN: &str = "gpu-0000-00-1e-admin";
/// What is published of it.
const WHOLE: [&str; 2] = [T4, T4_ADMIN];
const SHARES: [&str; 2] = [T4_SHARE, T4_ADMIN];
const BOTH: [&str; 3] = [T4_SHARE, T4, T4_ADMIN];
/// While those are to leave who hold it in a form that is no longer offered.
const LEAVING: [&str; 1] = [T4_ADMIN];

/// A node whose driver follows a file of these rules, and gives up on a prepare soon.
async fn under(profile: &str, rules: &str) -> Result<Testbed> {
    let mut testbed = prepared(profile, rules).await?;
    let file = file(&testbed);
    testbed.start_driver(&[("ALIQUOT_POLICY", file.to_str().unwrap()), ("ALIQUOT_PREPARE_BUDGET", "500ms")])?;
    testbed.ready().await?;
    Ok(testbed)
}

/// Ends the driver as SIGKILL does, and starts it again with the same file.
async fn restart(testbed: &mut Testbed) -> Result<()> {
    let file = file(testbed);
    testbed.restart_driver(&[("ALIQUOT_POLICY", file.to_str().unwrap()), ("ALIQUOT_PREPARE_BUDGET", "500ms")]).await
}

async fn published(testbed: &Testbed, devices: &[&str]) -> Result<()> {
    testbed.until(&format!("{devices:?} are published"), || testbed.published() == devices).await
}

/// How often slices were written.
fn writes(testbed: &Testbed) -> usize {
    let writes = ["create", "update", "patch", "delete", "deletecollection"];
    let is_write = |verb: &str, resource: &str| writes.contains(&verb) && resource == "resourceslices";
    let requests = testbed.api.requests();
    requests.iter().filter(|((verb, resource), _)| is_write(verb, resource)).map(|(_, count)| count).sum()
}

/// The number of shares that a device is published with.
fn shares_of(testbed: &Testbed, device: &str) -> Option<String> {
    let device = testbed.devices().into_iter().find(|one| one.name == device)?;
    Some(device.capacity?.get("shares")?.value.0.clone())
}
