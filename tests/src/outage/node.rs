//! Commands that act on the node, and what its records say.
use std::{collections::BTreeSet, io, process::Stdio, str::FromStr, time::Duration};

use serde::Deserialize;
use tokio::process::Command;

use super::Plan;

/// A command line for `sh`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shell(String);

impl FromStr for Shell {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim().is_empty() { Err("it is empty".to_owned()) } else { Ok(Self(text.to_owned())) }
    }
}

/// Why a command didn't do what it should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It couldn't be run.
    #[error("{0:?} can't be run")]
    Start(String, #[source] io::Error),
    /// It took too long.
    #[error("{command:?} didn't end within {} s", after.as_secs())]
    Late {
        /// The command line.
        command: String,
        /// How long it had.
        after: Duration,
    },
    /// It failed.
    #[error("{command:?} failed: {told}")]
    Failed {
        /// The command line.
        command: String,
        /// How it ended, and what it said.
        told: String,
    },
    /// It printed something else.
    #[error("{0:?} doesn't print what \"aliquot-driver status --output=json\" does")]
    Status(String, #[source] serde_json::Error),
}

/// Names of claims that have a record.
pub(super) type Records = BTreeSet<String>;

#[derive(Deserialize)]
struct Status {
    claims: Vec<Claim>,
}

#[derive(Deserialize)]
struct Claim {
    namespace: Option<String>,
    name: Option<String>,
    uid: String,
}

/// The node.
#[derive(Clone, Copy)]
pub(super) struct Node<'a> {
    status: &'a Shell,
    patience: Duration,
}

impl<'a> Node<'a> {
    pub(super) fn new(plan: &'a Plan) -> Self {
        Self { status: &plan.status, patience: plan.patience }
    }

    /// The claims of a namespace, and those of which none is known, that have a record.
    pub(super) async fn records(&self, namespace: &str) -> Result<Records, Error> {
        let printed = self.run(self.status).await?;
        records(&printed, namespace).map_err(|source| Error::Status(self.status.0.clone(), source))
    }

    /// Runs a command to its end; what it printed.
    pub(super) async fn run(&self, shell: &Shell) -> Result<Vec<u8>, Error> {
        let command = || shell.0.clone();
        let mut child = Command::new("sh");
        child.args(["-c", &shell.0]).stdin(Stdio::null()).kill_on_drop(true);
        let ended = tokio::time::timeout(self.patience, child.output()).await;
        let ended = ended.map_err(|_| Error::Late { command: command(), after: self.patience })?;
        let output = ended.map_err(|source| Error::Start(command(), source))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let told = format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
        Err(Error::Failed { command: command(), told })
    }
}

fn records(printed: &[u8], namespace: &str) -> Result<Records, serde_json::Error> {
    let status: Status = serde_json::from_slice(printed)?;
    let claims = status.claims.into_iter();
    let here = claims.filter(|claim| claim.namespace.as_deref().is_none_or(|its| its == namespace));
    Ok(here.map(|claim| claim.name.unwrap_or(claim.uid)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_those_of_the_namespace_and_those_that_nobody_can_read() {
        let printed = br#"{"kind": "ClaimReport", "claims": [{"namespace": "a", "name": "one", "uid": "1"},
            {"namespace": "b", "name": "two", "uid": "2"}, {"uid": "3", "state": "quarantined"}]}"#;
        assert_eq!(records(printed, "a").unwrap(), Records::from(["one".to_owned(), "3".to_owned()]));
        assert!(records(b"{}", "a").is_err());
    }

    #[tokio::test]
    async fn a_command_that_fails_says_what_it_said_and_one_that_hangs_is_given_up() {
        let status = "true".parse().unwrap();
        let node = Node { status: &status, patience: Duration::from_millis(300) };
        let failed = node.run(&"echo no such node >&2; exit 3".parse().unwrap()).await.unwrap_err();
        assert!(failed.to_string().ends_with("exit status: 3: no such node"), "{failed}");
        assert!(matches!(node.run(&"sleep 60".parse().unwrap()).await, Err(Error::Late { .. })));
        assert!(matches!(node.records("a").await, Err(Error::Status(..))));
        assert!(" ".parse::<Shell>().is_err());
    }
}
