//! `/metrics` in both text formats, and `/healthz` and `/readyz` for the kubelet's probes; the same in gRPC for `grpc` ones.
use std::{convert::Infallible, fmt, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;

use crate::{format::Format, grpc};

/// A client that doesn't send its request within this is let go: sooner than the kubelet gives up a probe, which may wait for
/// the place.
const SLOWEST: Duration = Duration::from_secs(2);
/// Probes, Prometheus and a person or two; more are made to wait.
const MOST_CLIENTS: usize = 64;
const PLAIN: &str = "text/plain; charset=utf-8";
/// The seconds after which the client gives up, as Prometheus says it.
const TIMEOUT: &str = "x-prometheus-scrape-timeout-seconds";
/// What Prometheus waits unless told otherwise.
const USUAL_TIMEOUT: Duration = Duration::from_secs(10);

/// What is told.
pub struct Pages<S, F> {
    /// The metrics, read at the time of a scrape.
    pub metrics: S,
    /// What keeps the program from being of use by now, each in a line; nothing if it is ready.
    pub missing: F,
    /// What the program is called where somebody asks for its health by gRPC.
    pub service: String,
}

/// Where metrics come from.
pub trait Source: Send + Sync + 'static {
    /// All of them in the text format of `OpenMetrics` 1.0, without exemplars, had within `patience`.
    ///
    /// # Errors
    ///
    /// A value can't be written in that format.
    fn scrape(&self, patience: Duration) -> impl Future<Output = Result<String, fmt::Error>> + Send;
}

impl Source for Registry {
    async fn scrape(&self, _: Duration) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, self)?;
        Ok(text)
    }
}

/// Serves until `stop`.
pub async fn serve<S, F>(listener: TcpListener, pages: Pages<S, F>, stop: CancellationToken)
where
    S: Source,
    F: Fn() -> Vec<String> + Send + Sync + 'static,
{
    stop.run_until_cancelled(accept(&listener, &Arc::new(pages))).await;
}

async fn accept<S, F>(listener: &TcpListener, pages: &Arc<Pages<S, F>>)
where
    S: Source,
    F: Fn() -> Vec<String> + Send + Sync + 'static,
{
    let places = Arc::new(Semaphore::new(MOST_CLIENTS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, say; it may pass.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let pages = Arc::clone(pages);
        tokio::spawn(async move {
            let _place = place;
            if grpc::is_next(&stream, SLOWEST).await {
                grpc::serve(stream, pages, SLOWEST).await;
            } else {
                serve_http1(stream, pages).await;
            }
        });
    }
}

async fn serve_http1<S, F>(stream: TcpStream, pages: Arc<Pages<S, F>>)
where
    S: Source,
    F: Fn() -> Vec<String> + Send + Sync + 'static,
{
    let service = service_fn(|request| {
        let pages = Arc::clone(&pages);
        async move { Ok::<_, Infallible>(answer(&request, &pages).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(SLOWEST)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a client of metrics or probes went away");
    }
}

async fn answer<S, F>(request: &Request<Incoming>, pages: &Pages<S, F>) -> Response<Full<Bytes>>
where
    S: Source,
    F: Fn() -> Vec<String>,
{
    let plain = |status, text: &str| (status, PLAIN, text.to_owned());
    let reads = [&Method::GET, &Method::HEAD].contains(&request.method());
    let (status, kind, body) = match request.uri().path() {
        "/healthz" | "/readyz" | "/metrics" if !reads => plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n"),
        // All tasks share one thread: if it answers, none of them holds it up, and if one ends, so does the process.
        "/healthz" => plain(StatusCode::OK, "ok\n"),
        "/readyz" => match (pages.missing)() {
            missing if missing.is_empty() => plain(StatusCode::OK, "ok\n"),
            missing => plain(StatusCode::SERVICE_UNAVAILABLE, &(missing.join("\n") + "\n")),
        },
        "/metrics" => match pages.metrics.scrape(patience(request.headers())).await {
            Ok(text) => {
                let format = Format::wanted(request.headers());
                (StatusCode::OK, format.content_type(), format.write(text))
            }
            Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "the metrics can't be written\n"),
        },
        _ => plain(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n"),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

/// Half of what the client waits; the other half is for writing and sending.
fn patience(headers: &HeaderMap) -> Duration {
    let seconds = headers.get(TIMEOUT).and_then(|value| value.to_str().ok()?.parse().ok());
    let timeout = seconds.and_then(|seconds: f64| Duration::try_from_secs_f64(seconds).ok());
    timeout.unwrap_or(USUAL_TIMEOUT) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_what_the_client_waits_is_for_asking() {
        let said =
            |seconds: &str| patience(&[(TIMEOUT.parse().unwrap(), seconds.parse().unwrap())].into_iter().collect());
        assert_eq!(said("0.5"), Duration::from_millis(250));
        for usual in [patience(&HeaderMap::new()), said("-1"), said("soon"), said("NaN")] {
            assert_eq!(usual, Duration::from_secs(5));
        }
    }
}
