//! Commands in containers, by the API server's exec.
use std::time::Duration;

use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Status};
use kube::{Api, api::AttachParams};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::cluster::Error;
use crate::cluster::api;

/// How long a command may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Output {
    pub(super) stdout: String,
    pub(super) stderr: String,
    pub(super) ended: Ended,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    Ok,
    /// It couldn't be started, or it failed: what the API server says of it.
    Failed(String),
    /// Nobody knows: the connection ended before the command did, so that nothing follows from what was read.
    Lost,
}

/// What is said of a command whose connection ended.
pub(super) const LOST: &str = "the connection ended before the command did";

impl Output {
    /// All that a user would have seen.
    pub(super) fn told(&self) -> String {
        let ended = match &self.ended {
            Ended::Ok => "",
            Ended::Failed(why) => why,
            Ended::Lost => LOST,
        };
        let parts = [self.stdout.as_str(), &self.stderr, ended];
        let lines = parts.iter().flat_map(|part| part.lines()).filter(|line| !line.trim().is_empty());
        lines.map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
    }
}

/// Runs a command in a pod's container and waits for its end.
pub(super) async fn run(pods: &Api<Pod>, pod: &str, container: &str, command: &[&str]) -> Result<Output, Error> {
    let what = || format!("run {} in {pod}", command.first().copied().unwrap_or_default());
    let late = |_| Error::Late { what: what(), after: PATIENCE, story: String::new() };
    tokio::time::timeout(PATIENCE, attached(pods, pod, container, command))
        .await
        .map_err(late)?
        .map_err(|source| api(what())(source).into())
}

async fn attached(pods: &Api<Pod>, pod: &str, container: &str, command: &[&str]) -> Result<Output, kube::Error> {
    let params = AttachParams::default().container(container).stdin(false).stdout(true).stderr(true);
    let mut process = pods.exec(pod, command.iter().copied(), &params).await?;
    let (out, errors, status) = (process.stdout(), process.stderr(), process.take_status());
    let status = async {
        match status {
            Some(status) => status.await,
            None => None,
        }
    };
    let (stdout, stderr, status) = futures::join!(read(out), read(errors), status);
    Ok(Output { stdout, stderr, ended: ended(status) })
}

async fn read(stream: Option<impl AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        // A stream that breaks ends the command, and its status tells.
        let _ = stream.read_to_end(&mut bytes).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The API server's last word on a command.
fn ended(status: Option<Status>) -> Ended {
    match status {
        None => Ended::Lost,
        Some(status) if status.status.as_deref() == Some("Success") => Ended::Ok,
        Some(status) => Ended::Failed(status.message.unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_without_a_last_word_has_not_failed_but_is_lost() {
        let read = |text: &str| ended(Some(serde_json::from_str(text).unwrap()));
        assert_eq!(read(r#"{"status": "Success"}"#), Ended::Ok);
        let exit = "command terminated with non-zero exit code";
        let status = format!(r#"{{"status": "Failure", "reason": "NonZeroExitCode", "message": "{exit}"}}"#);
        assert_eq!(read(&status), Ended::Failed(exit.to_owned()));
        assert_eq!(ended(None), Ended::Lost);
        let lost = Output { stdout: String::new(), stderr: String::new(), ended: Ended::Lost };
        assert!(lost.told().contains(LOST));
    }
}
