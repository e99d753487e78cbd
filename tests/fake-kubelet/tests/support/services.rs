//! The gRPC services of the driver.
use std::pin::Pin;

use kubelet_api::{
    dra::{v1, v1beta1},
    health::v1alpha1 as health,
    registration::v1 as registration,
};
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

use super::driver::{Behaviour, Call, State};

impl State {
    async fn asked(&self, version: &'static str, call: Call) -> Behaviour {
        self.calls.lock().unwrap().push((version, call));
        let behaviour = self.behaviour.lock().unwrap().clone();
        tokio::time::sleep(behaviour.call_delay).await;
        behaviour
    }
}

fn uids(claims: &[v1::Claim]) -> Vec<String> {
    claims.iter().map(|claim| claim.uid.clone()).collect()
}

#[tonic::async_trait]
impl registration::registration_server::Registration for State {
    async fn get_info(
        &self,
        _: tonic::Request<registration::InfoRequest>,
    ) -> Result<tonic::Response<registration::PluginInfo>, Status> {
        let behaviour = self.behaviour.lock().unwrap().clone();
        tokio::time::sleep(behaviour.info_delay).await;
        Ok(tonic::Response::new(registration::PluginInfo {
            r#type: registration::DRA_PLUGIN.to_owned(),
            name: behaviour.name,
            endpoint: self.endpoint.to_str().unwrap().to_owned(),
            supported_versions: behaviour.versions.into_iter().map(str::to_owned).collect(),
        }))
    }

    async fn notify_registration_status(
        &self,
        request: tonic::Request<registration::RegistrationStatus>,
    ) -> Result<tonic::Response<registration::RegistrationStatusResponse>, Status> {
        let status = request.into_inner();
        self.told.lock().unwrap().push((status.plugin_registered, status.error));
        Ok(tonic::Response::new(registration::RegistrationStatusResponse {}))
    }
}

#[tonic::async_trait]
impl v1::dra_plugin_server::DraPlugin for State {
    async fn node_prepare_resources(
        &self,
        request: tonic::Request<v1::NodePrepareResourcesRequest>,
    ) -> Result<tonic::Response<v1::NodePrepareResourcesResponse>, Status> {
        let claims = request.into_inner().claims;
        let behaviour = self.asked("v1", Call::Prepare(uids(&claims))).await;
        let claims = (behaviour.prepare)(claims)?;
        Ok(tonic::Response::new(v1::NodePrepareResourcesResponse { claims }))
    }

    async fn node_unprepare_resources(
        &self,
        request: tonic::Request<v1::NodeUnprepareResourcesRequest>,
    ) -> Result<tonic::Response<v1::NodeUnprepareResourcesResponse>, Status> {
        let claims = request.into_inner().claims;
        let behaviour = self.asked("v1", Call::Unprepare(uids(&claims))).await;
        let claims = (behaviour.unprepare)(claims)?;
        Ok(tonic::Response::new(v1::NodeUnprepareResourcesResponse { claims }))
    }
}

fn new_claims(claims: Vec<v1beta1::Claim>) -> Vec<v1::Claim> {
    let new = |c: v1beta1::Claim| v1::Claim { namespace: c.namespace, uid: c.uid, name: c.name };
    claims.into_iter().map(new).collect()
}

#[tonic::async_trait]
impl v1beta1::dra_plugin_server::DraPlugin for State {
    async fn node_prepare_resources(
        &self,
        request: tonic::Request<v1beta1::NodePrepareResourcesRequest>,
    ) -> Result<tonic::Response<v1beta1::NodePrepareResourcesResponse>, Status> {
        let claims = new_claims(request.into_inner().claims);
        let behaviour = self.asked("v1beta1", Call::Prepare(uids(&claims))).await;
        let claims = (behaviour.prepare)(claims)?.into_iter().map(|(uid, claim)| {
            let devices = claim.devices.into_iter().map(|d| v1beta1::Device {
                request_names: d.request_names,
                pool_name: d.pool_name,
                device_name: d.device_name,
                cdi_device_ids: d.cdi_device_ids,
            });
            (uid, v1beta1::NodePrepareResourceResponse { devices: devices.collect(), error: claim.error })
        });
        Ok(tonic::Response::new(v1beta1::NodePrepareResourcesResponse { claims: claims.collect() }))
    }

    async fn node_unprepare_resources(
        &self,
        request: tonic::Request<v1beta1::NodeUnprepareResourcesRequest>,
    ) -> Result<tonic::Response<v1beta1::NodeUnprepareResourcesResponse>, Status> {
        let claims = new_claims(request.into_inner().claims);
        let behaviour = self.asked("v1beta1", Call::Unprepare(uids(&claims))).await;
        let claims = (behaviour.unprepare)(claims)?.into_iter();
        let claims = claims.map(|(uid, c)| (uid, v1beta1::NodeUnprepareResourceResponse { error: c.error })).collect();
        Ok(tonic::Response::new(v1beta1::NodeUnprepareResourcesResponse { claims }))
    }
}

#[tonic::async_trait]
impl health::dra_resource_health_server::DraResourceHealth for State {
    type NodeWatchResourcesStream =
        std::pin::Pin<Box<dyn Stream<Item = Result<health::NodeWatchResourcesResponse, Status>> + Send>>;

    async fn node_watch_resources(
        &self,
        _: tonic::Request<health::NodeWatchResourcesRequest>,
    ) -> Result<tonic::Response<Self::NodeWatchResourcesStream>, Status> {
        let reports = tokio_stream::wrappers::BroadcastStream::new(self.health.subscribe());
        let responses = reports.map(|devices| match devices {
            Ok(devices) => Ok(health::NodeWatchResourcesResponse { devices }),
            Err(error) => Err(Status::data_loss(error.to_string())),
        });
        Ok(tonic::Response::new(Box::pin(responses)))
    }
}
