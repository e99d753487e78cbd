//! Calls to one driver instance in the contract version that its registration settled on.
use std::{path::PathBuf, time::Duration};

use http::Uri;
use kubelet_api::{
    dra::{
        v1::{
            self, Claim, Device, NodePrepareResourceResponse, NodePrepareResourcesRequest,
            NodePrepareResourcesResponse, NodeUnprepareResourceResponse, NodeUnprepareResourcesRequest,
            NodeUnprepareResourcesResponse, dra_plugin_client::DraPluginClient,
        },
        v1beta1,
    },
    health::v1alpha1::dra_resource_health_client::DraResourceHealthClient,
};
use tonic::{Code, Request, Response, Status};

use crate::link::Route;

/// The contract versions of prepare and unprepare that a kubelet of 1.34 to 1.37 speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// `v1.DRAPlugin`.
    V1,
    /// `v1beta1.DRAPlugin`.
    V1Beta1,
}

impl Version {
    /// All of them, as the kubelet lists them in its error.
    pub(crate) const ALL: [Self; 2] = [Self::V1, Self::V1Beta1];

    /// As written in `PluginInfo.supported_versions`.
    pub fn service(self) -> &'static str {
        match self {
            Self::V1 => v1::SERVICE,
            Self::V1Beta1 => v1beta1::SERVICE,
        }
    }

    /// The first in a plugin's list that the kubelet knows; the plugin's order decides.
    pub(crate) fn choose(supported: &[String]) -> Option<Self> {
        supported.iter().find_map(|service| Self::ALL.into_iter().find(|version| version.service() == service))
    }
}

/// A client of one registered driver instance.
#[derive(Debug, Clone)]
pub struct Driver {
    /// The driver's name.
    pub name: String,
    /// Its DRA socket.
    pub endpoint: PathBuf,
    /// The contract version in use.
    pub version: Version,
    pub(crate) route: Route,
    pub(crate) call_timeout: Duration,
}

impl Driver {
    /// The generated client of `v1.DRAPlugin`, without a deadline.
    pub fn v1(&self) -> DraPluginClient<Route> {
        DraPluginClient::with_origin(self.route.clone(), localhost())
    }

    /// The generated client of `v1beta1.DRAPlugin`, without a deadline.
    pub fn v1beta1(&self) -> v1beta1::dra_plugin_client::DraPluginClient<Route> {
        v1beta1::dra_plugin_client::DraPluginClient::with_origin(self.route.clone(), localhost())
    }

    /// The generated client of `v1alpha1.DRAResourceHealth`.
    pub fn health(&self) -> DraResourceHealthClient<Route> {
        DraResourceHealthClient::with_origin(self.route.clone(), localhost())
    }

    /// `NodePrepareResources` in the chosen version and with the kubelet's deadline.
    pub async fn prepare(&self, claims: Vec<Claim>) -> Result<NodePrepareResourcesResponse, Status> {
        match self.version {
            Version::V1 => {
                let request = self.request(NodePrepareResourcesRequest { claims });
                self.within(async { self.v1().node_prepare_resources(request).await }).await
            }
            Version::V1Beta1 => {
                let claims = claims.into_iter().map(old_claim).collect();
                let request = self.request(v1beta1::NodePrepareResourcesRequest { claims });
                self.within(async { self.v1beta1().node_prepare_resources(request).await }).await.map(new_prepared)
            }
        }
    }

    /// `NodeUnprepareResources` in the chosen version and with the kubelet's deadline.
    pub async fn unprepare(&self, claims: Vec<Claim>) -> Result<NodeUnprepareResourcesResponse, Status> {
        match self.version {
            Version::V1 => {
                let request = self.request(NodeUnprepareResourcesRequest { claims });
                self.within(async { self.v1().node_unprepare_resources(request).await }).await
            }
            Version::V1Beta1 => {
                let claims = claims.into_iter().map(old_claim).collect();
                let request = self.request(v1beta1::NodeUnprepareResourcesRequest { claims });
                self.within(async { self.v1beta1().node_unprepare_resources(request).await }).await.map(new_unprepared)
            }
        }
    }

    /// A request that tells the server the deadline, as grpc-go does.
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.call_timeout);
        request
    }

    async fn within<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
        let answer = tokio::time::timeout(self.call_timeout, call).await;
        answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("context deadline exceeded"))).map(Response::into_inner)
    }
}

/// A status as grpc-go prints it.
pub(crate) fn go_text(status: &Status) -> String {
    let code = match status.code() {
        Code::Cancelled => "Canceled".to_owned(),
        Code::Ok => "OK".to_owned(),
        code => format!("{code:?}"),
    };
    format!("rpc error: code = {code} desc = {}", status.message())
}

/// The authority of grpc-go's `unix:` targets.
fn localhost() -> Uri {
    Uri::from_static("http://localhost")
}

fn old_claim(Claim { namespace, uid, name }: Claim) -> v1beta1::Claim {
    v1beta1::Claim { namespace, uid, name }
}

fn new_prepared(old: v1beta1::NodePrepareResourcesResponse) -> NodePrepareResourcesResponse {
    let claims = old.claims.into_iter().map(|(uid, claim)| {
        let devices = claim.devices.into_iter().map(new_device).collect();
        (uid, NodePrepareResourceResponse { devices, error: claim.error })
    });
    NodePrepareResourcesResponse { claims: claims.collect() }
}

fn new_device(old: v1beta1::Device) -> Device {
    let v1beta1::Device { request_names, pool_name, device_name, cdi_device_ids } = old;
    Device { request_names, pool_name, device_name, cdi_device_ids, share_id: None }
}

fn new_unprepared(old: v1beta1::NodeUnprepareResourcesResponse) -> NodeUnprepareResourcesResponse {
    let claims = old.claims.into_iter().map(|(uid, claim)| (uid, NodeUnprepareResourceResponse { error: claim.error }));
    NodeUnprepareResourcesResponse { claims: claims.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plugins_order_decides_the_version_and_unknown_entries_are_skipped() {
        let list = |entries: &[&str]| entries.iter().map(|entry| (*entry).to_owned()).collect::<Vec<_>>();
        let choose = |entries: &[&str]| Version::choose(&list(entries));
        assert_eq!(choose(&["v1.DRAPlugin", "v1beta1.DRAPlugin"]), Some(Version::V1));
        assert_eq!(choose(&["v9.DRAPlugin", "v1beta1.DRAPlugin", "v1.DRAPlugin"]), Some(Version::V1Beta1));
        assert_eq!(choose(&["k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin"]), None);
        assert_eq!(choose(&[]), None);
    }

    #[test]
    fn a_status_reads_as_in_a_pods_events() {
        let status = Status::deadline_exceeded("context deadline exceeded");
        assert_eq!(go_text(&status), "rpc error: code = DeadlineExceeded desc = context deadline exceeded");
        assert!(go_text(&Status::cancelled("x")).contains("Canceled"));
    }
}
