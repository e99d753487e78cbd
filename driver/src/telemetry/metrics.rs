//! `/metrics` in the text format of `OpenMetrics`: read from what the rest of the driver knows, at the time of a scrape.
//! Beside it `/healthz` and `/readyz`, for the kubelet's probes.
mod collect;

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::Duration};
use tokio_util::sync::CancellationToken;

use super::health::Readiness;
use crate::{
    args::Address, claim::Claims, discovery::View, health::Health, others, policy::InForce, sharing::guard::Usage,
    sweep::report::Report,
};

/// A client that doesn't send its request within this is let go: sooner than the kubelet gives up a probe, which may wait for
/// the place.
const SLOWEST: Duration = Duration::from_secs(2);
/// Prometheus and a person or two; more are made to wait.
const MOST_CLIENTS: usize = 64;
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What is told.
#[derive(Clone)]
pub(crate) struct Sources {
    pub(crate) view: watch::Receiver<View>,
    pub(crate) policy: watch::Receiver<InForce>,
    pub(crate) usage: watch::Receiver<Usage>,
    pub(crate) others: others::Latest,
    pub(crate) health: watch::Receiver<Health>,
    pub(crate) claims: Arc<Claims>,
    pub(crate) report: watch::Receiver<Report>,
}

/// The address can't be had.
#[derive(Debug, thiserror::Error)]
#[error("--metrics-address {address} can't be listened on; choose another one, or none with an empty value: {source}")]
pub(crate) struct BindError {
    address: SocketAddr,
    source: std::io::Error,
}

/// Serves until `stop`; nothing without an address.
pub(crate) async fn serve(
    address: Address,
    sources: Sources,
    readiness: Readiness,
    stop: CancellationToken,
) -> Result<JoinHandle<()>, BindError> {
    let Some(address) = address else { return Ok(tokio::spawn(async {})) };
    let failed = |source| BindError { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    tracing::info!(address = %bound, "serving metrics");
    let mut registry = Registry::default();
    registry.register_collector(Box::new(collect::Collector(sources)));
    let registry = Arc::new(registry);
    Ok(tokio::spawn(async move {
        stop.run_until_cancelled(accept(&listener, &registry, &readiness)).await;
    }))
}

async fn accept(listener: &TcpListener, registry: &Arc<Registry>, readiness: &Readiness) {
    let places = Arc::new(tokio::sync::Semaphore::new(MOST_CLIENTS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, say; it may pass.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (registry, readiness) = (Arc::clone(registry), readiness.clone());
        tokio::spawn(async move {
            let _place = place;
            let service = service_fn(|request| {
                let answer = answer(&request, &registry, &readiness);
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(SLOWEST)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a client of the metrics went away");
            }
        });
    }
}

fn answer(request: &Request<Incoming>, registry: &Registry, readiness: &Readiness) -> Response<Full<Bytes>> {
    let (status, kind, body) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => {
            let mut text = String::new();
            match encode(&mut text, registry) {
                Ok(()) => (StatusCode::OK, OPENMETRICS, text),
                Err(_) => {
                    (StatusCode::INTERNAL_SERVER_ERROR, "text/plain", "the metrics can't be written\n".to_owned())
                }
            }
        }
        // One thread serves everything: who gets this answer knows that it doesn't hang.
        (&Method::GET | &Method::HEAD, "/healthz") => (StatusCode::OK, "text/plain", "ok\n".to_owned()),
        (&Method::GET | &Method::HEAD, "/readyz") => match readiness.missing() {
            missing if missing.is_empty() => (StatusCode::OK, "text/plain", "ok\n".to_owned()),
            missing => (StatusCode::SERVICE_UNAVAILABLE, "text/plain", missing.join("\n") + "\n"),
        },
        (_, "/metrics" | "/healthz" | "/readyz") => {
            (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET\n".to_owned())
        }
        _ => (StatusCode::NOT_FOUND, "text/plain", "there are /metrics, /healthz and /readyz\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}
