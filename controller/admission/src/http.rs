//! The webhook's paths: reviews in, answers out, with bounds on size, time and number.
use std::{sync::Arc, time::Duration};

use aliquot_daemon::report;
use axum::{
    Router,
    body::{HttpBody as _, to_bytes},
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use crate::{
    judge::Carrier,
    metrics::{Metrics, Outcome},
    review::review,
};

/// What a review can be in bytes: an object and its old version, each of at most 1.5 MiB in etcd.
const LARGEST: usize = 3 << 20;
/// How many bytes of bodies are held at once; others wait for their turn.
const AT_ONCE: usize = 4 * LARGEST;
/// How long a review may take, from its turn to its answer. The API server waits no longer than that for any webhook of
/// this project.
const DEADLINE: Duration = Duration::from_secs(5);

#[derive(Clone)]
struct Shared {
    driver: Arc<str>,
    /// One for each byte of a body.
    room: Arc<Semaphore>,
    /// What is read from a body takes several times its room, so that is done one by one.
    turn: Arc<Semaphore>,
    metrics: Metrics,
}

/// What is answered, and what is counted of it.
struct Answer {
    response: Response,
    carrier: Option<Carrier>,
    outcome: Outcome,
}

/// Judges parameters for `driver`.
pub(crate) fn router(driver: Arc<str>, metrics: Metrics) -> Router {
    let (room, turn) = (Arc::new(Semaphore::new(AT_ONCE)), Arc::new(Semaphore::new(1)));
    let shared = Shared { driver, room, turn, metrics };
    Router::new().route("/validate", post(validate)).route("/healthz", get(|| async { "ok" })).with_state(shared)
}

async fn validate(State(shared): State<Shared>, request: Request) -> Response {
    let begun = Instant::now();
    let Answer { response, carrier, outcome } = timeout(DEADLINE, answer(&shared, request))
        .await
        .unwrap_or_else(|_| refused(StatusCode::REQUEST_TIMEOUT, "the review took too long to arrive"));
    shared.metrics.reviewed(carrier, outcome, begun.elapsed());
    response
}

async fn answer(shared: &Shared, request: Request) -> Answer {
    if !is_json(&request) {
        return refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Content-Type application/json is needed");
    }
    let too_large = || refused(StatusCode::PAYLOAD_TOO_LARGE, "the review is incomplete, or larger than 3 MiB");
    // A body whose length isn't told may be of any.
    let length = request.body().size_hint().upper().and_then(|length| usize::try_from(length).ok()).unwrap_or(LARGEST);
    if length > LARGEST {
        return too_large();
    }
    // Neither semaphore is ever closed.
    let bytes = u32::try_from(length).unwrap_or(u32::MAX);
    let Ok(_room) = shared.room.acquire_many(bytes).await else { return ending() };
    let Ok(body) = to_bytes(request.into_body(), length).await else { return too_large() };
    let Ok(_turn) = shared.turn.acquire().await else { return ending() };
    match review(&shared.driver, &body) {
        Ok(verdict) => {
            if !verdict.findings.is_empty() {
                tracing::info!(object = verdict.object, faults = verdict.message(), "refused");
            }
            let response = ([(header::CONTENT_TYPE, "application/json")], verdict.to_review().to_string());
            let outcome = if verdict.findings.is_empty() { Outcome::Allowed } else { Outcome::Refused };
            Answer { response: response.into_response(), carrier: verdict.carrier, outcome }
        }
        Err(error) => refused(StatusCode::BAD_REQUEST, &report(&error)),
    }
}

fn is_json(request: &Request) -> bool {
    let content = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    content.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

fn ending() -> Answer {
    refused(StatusCode::SERVICE_UNAVAILABLE, "the webhook is ending")
}

fn refused(code: StatusCode, why: &str) -> Answer {
    tracing::debug!(%code, why, "not answered");
    let outcome = if code == StatusCode::REQUEST_TIMEOUT { Outcome::Late } else { Outcome::Invalid };
    Answer { response: (code, why.to_owned()).into_response(), carrier: None, outcome }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use futures::stream;
    use tower::ServiceExt as _;

    use super::*;

    async fn sent(content: &str, body: Body) -> (StatusCode, String) {
        posted(router("gpu.aliquot.dev".into(), Metrics::default()), content, body).await
    }

    async fn posted(router: Router, content: &str, body: Body) -> (StatusCode, String) {
        let request = Request::post("/validate").header(header::CONTENT_TYPE, content).body(body).unwrap();
        let response = router.oneshot(request).await.unwrap();
        let code = response.status();
        (code, String::from_utf8(to_bytes(response.into_body(), LARGEST).await.unwrap().to_vec()).unwrap())
    }

    #[tokio::test]
    async fn what_is_no_json_review_is_refused_with_the_reason() {
        for (content, body, code, why) in [
            ("text/plain", "{}", StatusCode::UNSUPPORTED_MEDIA_TYPE, "application/json"),
            ("application/json", "{", StatusCode::BAD_REQUEST, "no AdmissionReview"),
            ("application/json; charset=utf-8", "{}", StatusCode::BAD_REQUEST, "missing field"),
        ] {
            let (answered, text) = sent(content, body.into()).await;
            assert_eq!(answered, code, "{text}");
            assert!(text.contains(why), "{text}");
        }
    }

    #[tokio::test]
    async fn a_body_beyond_the_limit_is_refused_and_one_below_is_read() {
        let (code, _) = sent("application/json", vec![b' '; LARGEST + 1].into()).await;
        assert_eq!(code, StatusCode::PAYLOAD_TOO_LARGE);
        let (code, _) = sent("application/json", vec![b' '; LARGEST].into()).await;
        assert_eq!(code, StatusCode::BAD_REQUEST);
        let chunks = (0..4).map(|_| Ok::<_, std::io::Error>(vec![b' '; LARGEST / 3]));
        let (code, _) = sent("application/json", Body::from_stream(stream::iter(chunks))).await;
        assert_eq!(code, StatusCode::PAYLOAD_TOO_LARGE, "also where the length isn't told");
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_that_are_held_at_once_are_bounded_by_their_bytes() {
        let router = router("gpu.aliquot.dev".into(), Metrics::default());
        let endless = || Body::from_stream(stream::pending::<Result<Vec<u8>, std::io::Error>>());
        let held: Vec<_> = (0..AT_ONCE / LARGEST)
            .map(|_| tokio::spawn(posted(router.clone(), "application/json", endless())))
            .collect();
        tokio::task::yield_now().await;
        // It has its turn only after those were given up, and so as late as they.
        let before = tokio::time::Instant::now();
        let late = posted(router, "application/json", "{}".into());
        assert!(timeout(DEADLINE / 2, late).await.is_err());
        for one in held {
            assert_eq!(one.await.unwrap().0, StatusCode::REQUEST_TIMEOUT);
        }
        assert_eq!(before.elapsed(), DEADLINE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_given_up() {
        let body = Body::from_stream(stream::pending::<Result<Vec<u8>, std::io::Error>>());
        assert_eq!(sent("application/json", body).await.0, StatusCode::REQUEST_TIMEOUT);
    }
}
