//! The long-lived connection to one driver instance: kept up in the background, and calls fail fast while it is down.
use std::{
    error::Error,
    future::Future,
    io,
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::UnixStream, sync::watch, task::JoinHandle, time::sleep};
use tonic::{Status, body::Body};

/// grpc-go's pauses between connection attempts: one second, growing by 1.6 up to two minutes.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(2);

#[derive(Debug, Clone)]
enum State {
    Connecting,
    Ready(http2::SendRequest<Body>),
    Failed(String),
}

/// Keeps one connection up until dropped.
#[derive(Debug)]
pub(crate) struct Link {
    route: Route,
    keeper: JoinHandle<()>,
}

impl Link {
    /// Starts connecting. `on_change` hears of every connection gained (true) and lost (false).
    pub(crate) fn open(endpoint: PathBuf, on_change: impl Fn(bool) + Send + 'static) -> Self {
        let (state, route) = watch::channel(State::Connecting);
        let keeper = tokio::spawn(keep(endpoint, state, on_change));
        Self { route: Route(route), keeper }
    }

    /// What a generated client sends its calls through.
    pub(crate) fn route(&self) -> Route {
        self.route.clone()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

async fn keep(endpoint: PathBuf, state: watch::Sender<State>, on_change: impl Fn(bool)) {
    let mut pause = FIRST_PAUSE;
    loop {
        match connect(&endpoint).await {
            Ok((sender, connection)) => {
                pause = FIRST_PAUSE;
                state.send_replace(State::Ready(sender));
                on_change(true);
                if let Err(error) = connection.await {
                    tracing::debug!(?endpoint, %error, "connection to driver ended");
                }
                state.send_replace(State::Connecting);
                on_change(false);
            }
            Err(error) => {
                let (at, error) = (endpoint.display(), error.to_string());
                let text =
                    format!("connection error: desc = \"transport: Error while dialing: dial unix {at}: {error}\"");
                state.send_replace(State::Failed(text));
                sleep(pause).await;
                pause = pause.mul_f64(1.6).min(LONGEST_PAUSE);
            }
        }
    }
}

type Connection = http2::Connection<TokioIo<UnixStream>, Body, TokioExecutor>;

async fn connect(endpoint: &Path) -> io::Result<(http2::SendRequest<Body>, Connection)> {
    let stream = UnixStream::connect(endpoint).await?;
    let handshake = http2::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream));
    handshake.await.map_err(io::Error::other)
}

/// Sends calls over the connection there is; waits while it is being made, fails at once while it cannot be made.
#[derive(Debug, Clone)]
pub struct Route(watch::Receiver<State>);

type BoxError = Box<dyn Error + Send + Sync>;

impl tower::Service<http::Request<Body>> for Route {
    type Response = http::Response<Incoming>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let mut state = self.0.clone();
        Box::pin(async move {
            let settled = state.wait_for(|state| !matches!(state, State::Connecting)).await;
            let settled = settled.map(|state| state.clone()).map_err(|_| Status::unavailable("driver unregistered"))?;
            match settled {
                State::Ready(mut sender) => Ok(sender.send_request(request).await?),
                State::Failed(error) => Err(Status::unavailable(error).into()),
                State::Connecting => Err(Status::unavailable("connecting").into()),
            }
        })
    }
}
