//! The client of containerd's runtime interface (CRI v1), over its Unix socket.
use std::path::Path;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::{
    Response, Status,
    transport::{Channel, Endpoint},
};
use tower::service_fn;

use super::Error;

/// Messages and services, generated.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]
pub(super) mod proto {
    tonic::include_proto!("runtime.v1");
}

use proto::{
    ImageSpec, ImageStatusRequest, VersionRequest, VersionResponse, image_service_client::ImageServiceClient,
    runtime_service_client::RuntimeServiceClient,
};

/// Connects when it is first called, and again whenever the connection broke.
#[derive(Debug, Clone)]
pub(super) struct Client {
    channel: Channel,
}

impl Client {
    pub(super) fn new(socket: &Path) -> Self {
        let socket = socket.to_owned();
        let connect = service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        // The address is required, and only its name is used: gRPC's authority.
        let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(connect);
        Self { channel }
    }

    pub(super) fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone())
    }

    pub(super) async fn version(&self) -> Result<VersionResponse, Error> {
        let request = VersionRequest { version: "v1".to_owned() };
        answer("Version", self.runtime().version(request).await)
    }

    pub(super) async fn has_image(&self, reference: &str) -> Result<bool, Error> {
        let image = Some(ImageSpec { image: reference.to_owned() });
        let mut images = ImageServiceClient::new(self.channel.clone());
        let response = images.image_status(ImageStatusRequest { image }).await;
        Ok(answer("ImageStatus", response)?.image.is_some())
    }
}

/// The message of a response, or the error of the call.
pub(super) fn answer<T>(call: &'static str, response: Result<Response<T>, Status>) -> Result<T, Error> {
    response.map(Response::into_inner).map_err(|status| Error::Call { call, status: Box::new(status) })
}
