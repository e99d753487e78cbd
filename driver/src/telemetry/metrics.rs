//! `/metrics` in Prometheus's text format or OpenMetrics: read from what the rest of the driver knows, and from the GPUs, at
//! the time of a scrape.
//! Beside it `/healthz` and `/readyz`, for the kubelet's probes.
mod calls;
mod collect;
mod format;
mod gpus;
mod holders;
mod series;

use std::{convert::Infallible, fmt, net::SocketAddr, sync::Arc};

use aliquot_nvml::Questions;
use dra_plugin::slices::Handle;

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder,
        text::{encode_eof, encode_registry},
    },
    registry::Registry,
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::Duration};
use tokio_util::sync::CancellationToken;

pub(crate) use calls::Calls;
use format::Format;

use super::{
    health::Readiness,
    sampling::{Sampler, Samples},
};
use crate::{
    args::Address,
    claim::Claims,
    discovery::View,
    health::Health,
    others,
    policy::InForce,
    sharing::guard::{Procfs, Usage},
};

/// A client that doesn't send its request within this is let go.
const SLOWEST: Duration = Duration::from_secs(10);
/// Prometheus and a person or two; more are made to wait.
const MOST_CLIENTS: usize = 16;
/// How long the client waits, as Prometheus says it; the rest of that time is for writing and sending.
const TIMEOUT: &str = "x-prometheus-scrape-timeout-seconds";

/// What is told.
#[derive(Clone)]
pub(crate) struct Sources {
    pub(crate) view: watch::Receiver<View>,
    pub(crate) policy: watch::Receiver<InForce>,
    pub(crate) usage: watch::Receiver<Usage>,
    pub(crate) others: others::Latest,
    pub(crate) health: watch::Receiver<Health>,
    pub(crate) claims: Arc<Claims>,
    pub(crate) calls: Arc<Calls>,
    pub(crate) publishing: Handle,
    pub(crate) questions: watch::Receiver<Option<Questions>>,
    pub(crate) procfs: Procfs,
}

/// All that a scrape is made of.
struct Telling {
    /// What is read from memory.
    registry: Registry,
    sources: Sources,
    sampler: Sampler,
    readiness: Readiness,
}

/// What one scrape adds.
struct Scrape {
    telling: Arc<Telling>,
    samples: Arc<Samples>,
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
    registry.register_collector(Box::new(collect::Collector(sources.clone())));
    let sampler = Sampler::new(sources.view.clone(), sources.questions.clone());
    let telling = Arc::new(Telling { registry, sources, sampler, readiness });
    Ok(tokio::spawn(async move {
        stop.run_until_cancelled(accept(&listener, &telling)).await;
    }))
}

async fn accept(listener: &TcpListener, telling: &Arc<Telling>) {
    let places = Arc::new(tokio::sync::Semaphore::new(MOST_CLIENTS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, say; it may pass.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let telling = Arc::clone(telling);
        tokio::spawn(async move {
            let _place = place;
            let service = service_fn(|request| {
                let telling = Arc::clone(&telling);
                async move { Ok::<_, Infallible>(answer(&request, &telling).await) }
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

async fn answer(request: &Request<Incoming>, telling: &Arc<Telling>) -> Response<Full<Bytes>> {
    let (status, kind, body) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => {
            let format = Format::wanted(request.headers());
            let samples = telling.sampler.sample(limit(request)).await;
            match scrape(telling, samples) {
                Ok(text) => (StatusCode::OK, format.content_type(), format.write(text)),
                Err(_) => {
                    (StatusCode::INTERNAL_SERVER_ERROR, "text/plain", "the metrics can't be written\n".to_owned())
                }
            }
        }
        // One thread serves everything: who gets this answer knows that it doesn't hang.
        (&Method::GET | &Method::HEAD, "/healthz") => (StatusCode::OK, "text/plain", "ok\n".to_owned()),
        (&Method::GET | &Method::HEAD, "/readyz") => match telling.readiness.missing() {
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

/// Half of what the client waits, where it says that.
fn limit(request: &Request<Incoming>) -> Duration {
    let seconds = request.headers().get(TIMEOUT).and_then(|value| value.to_str().ok()?.parse().ok());
    let timeout = seconds.and_then(|seconds: f64| Duration::try_from_secs_f64(seconds).ok());
    timeout.map_or(SLOWEST, |timeout| timeout / 2)
}

fn scrape(telling: &Arc<Telling>, samples: Arc<Samples>) -> Result<String, fmt::Error> {
    let mut text = String::new();
    encode_registry(&mut text, &telling.registry)?;
    let mut now = Registry::default();
    now.register_collector(Box::new(Scrape { telling: Arc::clone(telling), samples }));
    encode_registry(&mut text, &now)?;
    encode_eof(&mut text)?;
    Ok(text)
}

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Telling { sources, readiness, .. } = &*self.telling;
        let encoder = &mut encoder;
        sources.calls.encode(encoder)?;
        holders::encode_publishing(encoder, &sources.publishing, &readiness.registration)?;
        holders::encode_claims(encoder, &sources.claims.records(), &self.samples, &sources.procfs)?;
        gpus::encode(encoder, &self.samples)
    }
}
