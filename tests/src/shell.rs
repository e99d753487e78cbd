//! Command lines that act on a cluster's node, as whoever runs a task gives them.
use std::{io, process::Stdio, str::FromStr, time::Duration};

use tokio::process::Command;

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
}

impl Shell {
    /// As it was given.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    /// Runs it to its end; what it printed.
    pub(crate) async fn run(&self, patience: Duration) -> Result<Vec<u8>, Error> {
        self.start(&self.0, None, patience).await
    }

    /// The same with one argument more, which it takes for a script.
    pub(crate) async fn run_script(&self, script: &str, patience: Duration) -> Result<String, Error> {
        let printed = self.start(&format!("{} \"$1\"", self.0), Some(script), patience).await?;
        Ok(String::from_utf8_lossy(&printed).into_owned())
    }

    async fn start(&self, line: &str, argument: Option<&str>, patience: Duration) -> Result<Vec<u8>, Error> {
        let command = || format!("{}{}", self.0, argument.map(|script| format!(" {script:?}")).unwrap_or_default());
        let mut child = Command::new("sh");
        child.args(["-c", line, "sh"]).args(argument).stdin(Stdio::null()).kill_on_drop(true);
        let ended = tokio::time::timeout(patience, child.output()).await;
        let ended = ended.map_err(|_| Error::Late { command: command(), after: patience })?;
        let output = ended.map_err(|source| Error::Start(command(), source))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let told = format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
        Err(Error::Failed { command: command(), told })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_command_that_fails_says_what_it_said_and_one_that_hangs_is_given_up() {
        let patience = Duration::from_millis(300);
        let shell = |text: &str| text.parse::<Shell>().unwrap();
        let failed = shell("echo no such node >&2; exit 3").run(patience).await.unwrap_err();
        assert!(failed.to_string().ends_with("exit status: 3: no such node"), "{failed}");
        assert!(matches!(shell("sleep 60").run(patience).await, Err(Error::Late { .. })));
        assert!(" ".parse::<Shell>().is_err());
    }

    #[tokio::test]
    async fn a_script_is_one_argument_whatever_is_in_it() {
        let shell: Shell = "sh -c".parse().unwrap();
        let printed = shell.run_script("echo 'a  b' \"$HOME\" | wc -w", Duration::from_secs(10)).await.unwrap();
        assert_eq!(printed.trim(), "3");
    }
}
