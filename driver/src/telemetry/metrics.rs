//! What metrics and probes are made of: read from what the rest of the driver knows, and from the GPUs, at the time of a scrape.
mod calls;
mod collect;
mod gpus;
mod holders;
mod series;

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aliquot_daemon::pages::{self, Pages};
use aliquot_nvml::Questions;
use dra_plugin::slices::Handle;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, text::encode},
    registry::Registry,
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

pub(crate) use calls::Calls;

use super::{
    health::Readiness,
    sampling::{Sampler, Samples},
};
use crate::{
    args::Address,
    claim::Claims,
    discovery::View,
    facts::Tally,
    health::Health,
    others,
    policy::InForce,
    sharing::guard::{Procfs, Usage},
    sweep::report::Report,
};

/// What is told.
pub(crate) struct Sources {
    pub(crate) view: watch::Receiver<View>,
    pub(crate) policy: watch::Receiver<InForce>,
    pub(crate) usage: watch::Receiver<Usage>,
    pub(crate) others: others::Latest,
    pub(crate) health: watch::Receiver<Health>,
    pub(crate) claims: Arc<Claims>,
    pub(crate) report: watch::Receiver<Report>,
    pub(crate) facts: watch::Receiver<Tally>,
    pub(crate) calls: Arc<Calls>,
    pub(crate) publishing: Handle,
    pub(crate) questions: watch::Receiver<Option<Questions>>,
    pub(crate) procfs: Procfs,
}

/// All that a scrape is made of.
struct Metrics {
    sources: Arc<Sources>,
    sampler: Sampler,
    readiness: Readiness,
    /// As many bytes as the last scrape had: the next will have as many, and is not to be copied as it grows.
    length: AtomicUsize,
}

/// One scrape: everything is read anew, and nothing is counted twice.
struct Scrape {
    sources: Arc<Sources>,
    readiness: Readiness,
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
    driver: String,
    sources: Sources,
    readiness: Readiness,
    stop: CancellationToken,
) -> Result<JoinHandle<()>, BindError> {
    let Some(address) = address else { return Ok(tokio::spawn(async {})) };
    let failed = |source| BindError { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    tracing::info!(address = %bound, "serving metrics");
    let sampler = Sampler::new(sources.view.clone(), sources.questions.clone());
    let length = AtomicUsize::default();
    let metrics = Metrics { sources: Arc::new(sources), sampler, readiness: readiness.clone(), length };
    let pages = Pages { metrics, missing: move || readiness.missing(), service: driver };
    Ok(tokio::spawn(pages::serve(listener, pages, stop)))
}

impl pages::Source for Metrics {
    async fn scrape(&self, patience: Duration) -> Result<String, fmt::Error> {
        let samples = self.sampler.sample(patience).await;
        let scrape = Scrape { sources: Arc::clone(&self.sources), readiness: self.readiness.clone(), samples };
        let mut registry = Registry::default();
        registry.register_collector(Box::new(scrape));
        let mut text = String::with_capacity(self.length.load(Ordering::Relaxed) * 9 / 8);
        encode(&mut text, &registry)?;
        self.length.store(text.len(), Ordering::Relaxed);
        Ok(text)
    }
}

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Self { sources, readiness, samples } = self;
        let encoder = &mut encoder;
        let records = sources.claims.records();
        collect::encode(encoder, sources, records.len())?;
        sources.calls.encode(encoder)?;
        holders::encode_publishing(encoder, &sources.publishing, &readiness.registration)?;
        holders::encode_claims(encoder, &records, samples, &sources.procfs)?;
        gpus::encode(encoder, samples)
    }
}
