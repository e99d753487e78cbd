//! A DRA driver's socket, called as the kubelet calls it.
use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use kubelet_api::dra::v1::{
    Claim, NodePrepareResourcesRequest, NodeUnprepareResourcesRequest, dra_plugin_client::DraPluginClient,
};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The socket can't be connected to.
    #[error("{} can't be connected to", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The channel can't be made.
    #[error(transparent)]
    Channel(#[from] tonic::transport::Error),
    /// The whole call failed.
    #[error("the call failed: {}", .0.message())]
    Call(Box<tonic::Status>),
    /// The driver refused one claim.
    #[error("claim {claim}: {error}")]
    Claim {
        /// Its UID.
        claim: String,
        /// What the driver said.
        error: String,
    },
}

/// A connection to a driver.
#[derive(Debug, Clone)]
pub struct Driver {
    client: DraPluginClient<Channel>,
    pid: Option<i32>,
}

impl Driver {
    /// Connects once; calls share the connection, as the kubelet's do.
    pub async fn connect(path: &Path) -> Result<Self, SocketError> {
        let failed = |source| SocketError::Connect { path: path.to_owned(), source };
        let pid = UnixStream::connect(path).await.map_err(failed)?.peer_cred().map_err(failed)?.pid();
        let path = path.to_owned();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://localhost").connect_with_connector(connector).await?;
        Ok(Self { client: DraPluginClient::new(channel), pid })
    }

    /// Prepares claims in one call; an error of any of them is one.
    pub async fn prepare(&mut self, claims: &[Claim]) -> Result<(), SocketError> {
        let request = NodePrepareResourcesRequest { claims: claims.to_vec() };
        let answer =
            self.client.node_prepare_resources(request).await.map_err(|status| SocketError::Call(status.into()))?;
        let errors = answer.into_inner().claims.into_iter().map(|(uid, claim)| (uid, claim.error)).collect();
        every(claims, errors)
    }

    /// Unprepares claims in one call; an error of any of them is one.
    pub async fn unprepare(&mut self, claims: &[Claim]) -> Result<(), SocketError> {
        let request = NodeUnprepareResourcesRequest { claims: claims.to_vec() };
        let answer =
            self.client.node_unprepare_resources(request).await.map_err(|status| SocketError::Call(status.into()))?;
        let errors = answer.into_inner().claims.into_iter().map(|(uid, claim)| (uid, claim.error)).collect();
        every(claims, errors)
    }

    /// CPU time that the process behind the socket has used so far, over all its threads.
    pub fn cpu_time(&self) -> Option<Duration> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid?)).ok()?;
        let of_task = |task: std::fs::DirEntry| {
            let stat = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
            stat.split_whitespace().next()?.parse::<u64>().ok()
        };
        Some(Duration::from_nanos(tasks.flatten().filter_map(of_task).sum()))
    }

    /// Memory of the process behind the socket, in KiB: resident, and of that anonymous (proc(5), status).
    pub fn memory(&self) -> Option<(u64, u64)> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid?)).ok()?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().trim_end_matches(" kB").trim().parse().ok()
        };
        Some((field("VmRSS:")?, field("RssAnon:")?))
    }
}

fn every(claims: &[Claim], mut errors: HashMap<String, String>) -> Result<(), SocketError> {
    for claim in claims {
        let error = errors.remove(&claim.uid).unwrap_or_else(|| "the driver gave no answer".to_owned());
        if !error.is_empty() {
            return Err(SocketError::Claim { claim: claim.uid.clone(), error });
        }
    }
    Ok(())
}
