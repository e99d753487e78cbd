//! Commands that act on the node, and what its records say.
use std::{collections::BTreeSet, time::Duration};

use serde::Deserialize;

use super::Plan;
use crate::shell::{self, Shell};

/// Why a command didn't do what it should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It failed.
    #[error(transparent)]
    Shell(#[from] shell::Error),
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
        records(&printed, namespace).map_err(|source| Error::Status(self.status.text().to_owned(), source))
    }

    /// Runs a command to its end; what it printed.
    pub(super) async fn run(&self, shell: &Shell) -> Result<Vec<u8>, Error> {
        Ok(shell.run(self.patience).await?)
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
    async fn a_command_that_prints_something_else_is_told_of() {
        let status = "true".parse().unwrap();
        let node = Node { status: &status, patience: Duration::from_secs(10) };
        assert!(matches!(node.records("a").await, Err(Error::Status(..))));
    }
}
