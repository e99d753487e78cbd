//! Where metrics and probes are listened for.
use std::net::SocketAddr;

use tokio::net::TcpListener;

/// The address can't be had.
#[derive(Debug, thiserror::Error)]
#[error("--http-address {address} can't be listened on; choose another one")]
pub(crate) struct BindError {
    address: SocketAddr,
    source: std::io::Error,
}

/// Takes the address.
pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    let failed = |source| BindError { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    tracing::info!(address = %bound, "serving metrics and probes");
    Ok(listener)
}
