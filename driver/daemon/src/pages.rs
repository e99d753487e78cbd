//! `/metrics` in the text format of `OpenMetrics`, and `/healthz` and `/readyz` for the kubelet's probes.
use std::{convert::Infallible, sync::Arc, time::Duration};

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
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;

/// A client that doesn't send its request within this is let go: sooner than the kubelet gives up a probe, which may wait for
/// the place.
const SLOWEST: Duration = Duration::from_secs(2);
/// Probes, Prometheus and a person or two; more are made to wait.
const MOST_CLIENTS: usize = 64;
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// What is told.
pub struct Pages<F> {
    /// The metrics, read at the time of a scrape.
    pub registry: Registry,
    /// What keeps the program from being of use by now, each in a line; nothing if it is ready.
    pub missing: F,
}

/// Serves until `stop`.
pub async fn serve<F>(listener: TcpListener, pages: Pages<F>, stop: CancellationToken)
where
    F: Fn() -> Vec<String> + Send + Sync + 'static,
{
    stop.run_until_cancelled(accept(&listener, &Arc::new(pages))).await;
}

async fn accept<F>(listener: &TcpListener, pages: &Arc<Pages<F>>)
where
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
            let service = service_fn(|request| {
                let answer = answer(&request, &pages);
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(SLOWEST)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a client of metrics or probes went away");
            }
        });
    }
}

fn answer(request: &Request<Incoming>, pages: &Pages<impl Fn() -> Vec<String>>) -> Response<Full<Bytes>> {
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
        "/metrics" => {
            let mut text = String::new();
            match encode(&mut text, &pages.registry) {
                Ok(()) => (StatusCode::OK, OPENMETRICS, text),
                Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "the metrics can't be written\n"),
            }
        }
        _ => plain(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n"),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}
