//! Nodes with a policy file, which suites change.
use std::{fs, path::PathBuf};

use fake_apiserver::Server;

use crate::testbed::{Result, Testbed};

/// A policy whose rules begin in line 3, column 8.
pub fn policy(rules: &str) -> String {
    format!("apiVersion: gpu.aliquot.dev/v1alpha1\nkind: Policy\nrules: {rules}\n")
}

/// The file that a node's driver follows.
pub fn file(testbed: &Testbed) -> PathBuf {
    testbed.node.path("etc/policy.yaml")
}

/// Puts another file in its place, at once.
pub fn replace(testbed: &Testbed, content: impl AsRef<[u8]>) -> Result<()> {
    let fresh = testbed.node.path("etc/.policy.new");
    fs::write(&fresh, content)?;
    Ok(fs::rename(fresh, file(testbed))?)
}

/// A node before its driver is started, with a file of these rules.
pub async fn prepared(profile: &str, rules: &str) -> Result<Testbed> {
    let testbed = Testbed::without_driver(profile, Server::builder()).await?;
    fs::create_dir(testbed.node.path("etc"))?;
    replace(&testbed, policy(rules))?;
    Ok(testbed)
}
