//! What metrics and probes are made of: read from what the rest of the driver knows, at the time of a scrape.
mod collect;

use std::{net::SocketAddr, sync::Arc};

use aliquot_daemon::pages::{self, Pages};
use prometheus_client::registry::Registry;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::health::Readiness;
use crate::{
    args::Address, claim::Claims, discovery::View, facts::Tally, health::Health, others, policy::InForce,
    sharing::guard::Usage, sweep::report::Report,
};

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
    pub(crate) facts: watch::Receiver<Tally>,
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
    let pages = Pages { registry, missing: move || readiness.missing() };
    Ok(tokio::spawn(pages::serve(listener, pages, stop)))
}
