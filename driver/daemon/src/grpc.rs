//! Health by gRPC (`grpc.health.v1.Health`), on the port of the pages: the readiness that `/readyz` tells.
//!
//! `Check` only: whoever watches would hold a connection, and there is a place for few of them. A client that asks to watch
//! is told so, and asks again and again instead, as the protocol has it.
use std::{sync::Arc, time::Duration};

use hyper::{Request, body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, time::timeout};
use tonic::{Response, Status, codegen::Service as _};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{Health, HealthServer},
};

use crate::pages::{Pages, Source};

/// How a client that knows it speaks HTTP/2 begins (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI ";
/// A probe asks one thing.
const MOST_STREAMS: u32 = 8;
/// What a client may send of one question: a name.
const LONGEST: usize = 4 << 10;

/// Whether the client speaks HTTP/2; nothing of what it sent is taken.
pub(crate) async fn is_next(stream: &TcpStream, patience: Duration) -> bool {
    let mut first = [0; PREFACE.len()];
    matches!(timeout(patience, stream.peek(&mut first)).await, Ok(Ok(4)) if first == PREFACE)
}

/// Answers what comes within `patience`, then has the client make a new connection.
pub(crate) async fn serve<S, F>(stream: TcpStream, pages: Arc<Pages<S, F>>, patience: Duration)
where
    S: Source,
    F: Fn() -> Vec<String> + Send + Sync + 'static,
{
    let health = HealthServer::from_arc(pages).max_decoding_message_size(LONGEST);
    let service = service_fn(|request: Request<Incoming>| {
        let mut health = health.clone();
        async move { health.call(request).await }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(MOST_STREAMS)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = if let Ok(ended) = timeout(patience, connection.as_mut()).await {
        ended
    } else {
        connection.as_mut().graceful_shutdown();
        timeout(patience, connection).await.unwrap_or(Ok(()))
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a client of the health service went away");
    }
}

#[tonic::async_trait]
impl<S, F> Health for Pages<S, F>
where
    S: Source,
    F: Fn() -> Vec<String> + Send + Sync + 'static,
{
    type WatchStream = tokio_stream::Empty<Result<HealthCheckResponse, Status>>;

    async fn check(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = &request.get_ref().service;
        if !service.is_empty() && *service != self.service {
            return Err(Status::not_found(format!("there is \"\", and {:?}", self.service)));
        }
        let serves = (self.missing)().is_empty();
        let status = if serves { ServingStatus::Serving } else { ServingStatus::NotServing };
        Ok(Response::new(HealthCheckResponse { status: status.into() }))
    }

    async fn watch(&self, _: tonic::Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("ask with Check"))
    }
}
