//! Asks at the kubelet's pod-resources socket what device plugins have for pods, and what pods hold (KEP-606, KEP-3695).
use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use kubelet_api::podresources::v1::{
    AllocatableResourcesRequest, ContainerDevices, ListPodResourcesRequest, PodResources,
    pod_resources_lister_client::PodResourcesListerClient,
};
use tonic::transport::{Channel, Endpoint};

/// The directory of the socket below the kubelet's root.
pub(crate) const DIR: &str = "pod-resources";
const SOCKET: &str = "kubelet.sock";
/// As the kubelet's own client has it (`defaultPodResourcesMaxSize`): a node's pods with all their CPUs take more than gRPC's
/// usual 4 MiB.
const LARGEST: usize = 16 << 20;

/// Why the kubelet says nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// There is no socket.
    #[error("there is no {}: is --kubelet-root right, and is its directory pod-resources mounted here?", socket.display())]
    Absent {
        /// Where it would be.
        socket: PathBuf,
    },
    /// The path can't be one of a socket.
    #[error("{} can't be named to a client: only UTF-8 can", socket.display())]
    Name {
        /// The path.
        socket: PathBuf,
    },
    /// Nobody listens.
    #[error("{} can't be connected to", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: tonic::transport::Error,
    },
    /// It refuses, or breaks off.
    #[error("the kubelet doesn't tell what device plugins registered, and what pods hold: {}", .0.message())]
    Refused(#[from] Box<tonic::Status>),
    /// It takes too long.
    #[error("the kubelet gave no answer within {} s", .0.as_secs())]
    Overdue(Duration),
}

/// A connection to the kubelet. It answers a hundred calls a second, to all who ask together, and refuses more.
pub(crate) struct Asking(PodResourcesListerClient<Channel>);

impl Asking {
    /// Of the kubelet whose root directory this is.
    pub(crate) async fn begin(kubelet_root: &Path) -> Result<Self, Error> {
        let socket = kubelet_root.join(DIR).join(SOCKET);
        if matches!(socket.symlink_metadata(), Err(error) if error.kind() == ErrorKind::NotFound) {
            return Err(Error::Absent { socket });
        }
        let Some(path) = socket.to_str() else { return Err(Error::Name { socket }) };
        let connecting = async { Endpoint::from_shared(format!("unix:{path}"))?.connect().await };
        let channel = connecting.await.map_err(|source| Error::Connect { socket, source })?;
        Ok(Self(PodResourcesListerClient::new(channel).max_decoding_message_size(LARGEST)))
    }

    /// What device plugins have for pods.
    pub(crate) async fn plugins(&mut self) -> Result<Vec<ContainerDevices>, Error> {
        let answer = self.0.get_allocatable_resources(AllocatableResourcesRequest {}).await.map_err(Box::new)?;
        Ok(answer.into_inner().devices)
    }

    /// The pods with what their containers hold, without pods that have ended.
    ///
    /// A claim that no container references is in none of them.
    pub(crate) async fn pods(&mut self) -> Result<Vec<PodResources>, Error> {
        let answer = self.0.list(ListPodResourcesRequest {}).await.map_err(Box::new)?;
        Ok(answer.into_inner().pod_resources)
    }
}

/// Gives up on a kubelet that is hung, or has other worries.
pub(crate) async fn within<T>(deadline: Duration, asking: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(deadline, asking).await.unwrap_or(Err(Error::Overdue(deadline)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_kubelet_without_the_socket_is_told_with_what_to_look_at() {
        let dir = tempfile::tempdir().unwrap();
        let error = Asking::begin(dir.path()).await.err().unwrap();
        assert!(matches!(error, Error::Absent { .. }) && error.to_string().contains("--kubelet-root"), "{error}");
        std::fs::create_dir(dir.path().join(DIR)).unwrap();
        std::fs::write(dir.path().join(DIR).join(SOCKET), "").unwrap();
        let error = Asking::begin(dir.path()).await.err().unwrap();
        assert!(matches!(error, Error::Connect { .. }), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_kubelet_that_never_answers_is_given_up_on_in_words() {
        let error = within::<()>(Duration::from_secs(2), std::future::pending()).await.unwrap_err();
        assert_eq!(error.to_string(), "the kubelet gave no answer within 2 s");
    }
}
