//! Connections over TLS: as many as there is room for, each for a while, with whatever certificate is in force.
use std::{fmt, io, sync::Arc, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use rustls::{
    ServerConfig,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The certificate in force; none before there is one.
pub(crate) type Identity = watch::Receiver<Option<Arc<CertifiedKey>>>;

/// How many connections there may be. An API server needs one or two.
const CONNECTIONS: usize = 64;
/// How long a client may take for its part of the handshake, or for a request's headers.
const PATIENCE: Duration = Duration::from_secs(5);
/// After that a connection ends with its next answer, so that nobody keeps one for good, nor an old certificate.
const AGE: Duration = Duration::from_mins(10);
/// How long answers that are under way at the end of a connection may take.
const FAREWELL: Duration = Duration::from_secs(5);
/// What a client may send ahead of being read over one connection, in bytes; all of them at once have room in memory.
const AHEAD: u32 = 128 << 10;
/// How long to wait where the system has no file descriptor left, say.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop`, and lets answers that are under way end.
pub(crate) async fn serve(
    listener: TcpListener,
    identity: Identity,
    router: Router,
    stop: CancellationToken,
) -> Result<(), rustls::Error> {
    let acceptor = TlsAcceptor::from(Arc::new(config(identity)?));
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let connections = TaskTracker::new();
    while let Some(Ok(place)) = stop.run_until_cancelled(Arc::clone(&places).acquire_owned()).await {
        let Some(accepted) = stop.run_until_cancelled(listener.accept()).await else { break };
        match accepted {
            Ok((stream, _)) => {
                let (acceptor, router, stop) = (acceptor.clone(), router.clone(), stop.clone());
                connections.spawn(async move {
                    connection(stream, acceptor, router, stop).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection can't be accepted");
                sleep(PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    // Whoever takes longer is cut off.
    let _ = timeout(FAREWELL, connections.wait()).await;
    Ok(())
}

fn config(identity: Identity) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(InForce(identity)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, router: Router, stop: CancellationToken) {
    match timeout(PATIENCE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => answers(stream, router, stop).await,
        Ok(Err(error)) => ended(&error),
        Err(_) => ended(&io::Error::from(io::ErrorKind::TimedOut)),
    }
}

async fn answers<S>(stream: S, router: Router, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(AHEAD as usize);
    let mut http2 = builder.http2();
    http2.timer(TokioTimer::new()).max_concurrent_streams(64).max_header_list_size(16 << 10);
    http2.initial_connection_window_size(AHEAD).initial_stream_window_size(AHEAD).max_send_buf_size(AHEAD as usize);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        _ = stop.run_until_cancelled(sleep(AGE)) => {
            connection.as_mut().graceful_shutdown();
            // A client that takes nothing of its answer would keep its place for good.
            match timeout(FAREWELL, connection).await {
                Ok(result) => result,
                Err(_) => return tracing::debug!("a connection was cut off"),
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(error = %error, "a connection broke");
    }
}

/// Common where someone probes the port; API servers tell their side of it themselves.
fn ended(error: &io::Error) {
    tracing::debug!(%error, "no TLS connection came about");
}

/// Answers every handshake with the certificate of that moment.
struct InForce(Identity);

impl fmt::Debug for InForce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InForce")
    }
}

impl ResolvesServerCert for InForce {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.borrow().clone()
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::{
        io::{AsyncWriteExt as _, duplex},
        time::Instant,
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_no_answer_is_cut_off() {
        let (mut client, server) = duplex(1 << 10);
        let router = Router::new().route("/", get(|| async { vec![0; 1 << 20] }));
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let began = Instant::now();
        let cut_off = timeout(AGE + 2 * FAREWELL, answers(server, router, CancellationToken::new())).await;
        assert!(cut_off.is_ok() && began.elapsed() >= AGE, "{:?}", began.elapsed());
        drop(client);
    }
}
