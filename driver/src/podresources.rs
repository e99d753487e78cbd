//! Asks the kubelet what the containers of its active pods use.
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use kubelet_api::podresources::v1::{
    ListPodResourcesRequest, PodResources, pod_resources_lister_client::PodResourcesListerClient,
};
use tonic::transport::Endpoint;

/// Below the kubelet's root directory.
const SOCKET: &str = "pod-resources/kubelet.sock";
/// A kubelet that takes longer is hung, or has other worries.
const PATIENCE: Duration = Duration::from_secs(10);
/// What the kubelet's own client takes (`defaultPodResourcesMaxSize`).
const LARGEST: usize = 16 << 20;

/// The kubelet doesn't say.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Nobody listens.
    #[error("the kubelet's pod resources can't be asked for at {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: tonic::transport::Error,
    },
    /// It refused, or broke off.
    #[error("the kubelet doesn't list pod resources: {}", .0.message())]
    Refused(Box<tonic::Status>),
    /// It is hung.
    #[error("the kubelet has not listed pod resources within {} s", PATIENCE.as_secs())]
    Late,
}

/// The pods with the devices of their containers, without those that have ended.
///
/// A claim that no container references is in none of them. The kubelet answers a hundred such calls a second, and refuses
/// more.
pub(crate) async fn list(kubelet_root: &Path) -> Result<Vec<PodResources>, Error> {
    let path = kubelet_root.join(SOCKET);
    let listing = async {
        let connect = |source| Error::Connect { path: path.clone(), source };
        let endpoint = Endpoint::try_from(format!("unix:{}", path.display())).map_err(connect)?;
        let channel = endpoint.connect().await.map_err(connect)?;
        let mut client = PodResourcesListerClient::new(channel).max_decoding_message_size(LARGEST);
        let answer =
            client.list(ListPodResourcesRequest {}).await.map_err(|status| Error::Refused(Box::new(status)))?;
        Ok(answer.into_inner().pod_resources)
    };
    tokio::time::timeout(PATIENCE, listing).await.unwrap_or(Err(Error::Late))
}
