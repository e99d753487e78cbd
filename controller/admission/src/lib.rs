//! The admission webhook: refuses wrong parameters in claims, templates and classes before anything is made of them.
//!
//! ```text
//! certs: Secret <─keeper─> ValidatingWebhookConfiguration        API server
//!           └─ or files ──> identity ──> tls ──> http ──> review ──> judge ──> aliquot_params
//! ```
//! `judge`, `lean`, `review`, `certs::decide` and `certs::issue` are pure. The parameters are read by the function with which the
//! driver reads them at prepare, so the two can't disagree; the webhook only tells earlier, and at the field.
#![forbid(unsafe_code)]

mod args;
mod certs;
mod http;
pub mod judge;
mod lean;
mod metrics;
pub mod review;
mod tls;

use std::{net::SocketAddr, sync::Arc};

use kube::Client;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use args::{Address, Args};
pub use certs::Error as CertificateError;
pub use metrics::Metrics;

/// Who serves, where several parts of one program need to know it.
#[derive(Debug, Clone)]
pub struct Site {
    /// The DRA driver's name, whose parameters are judged.
    pub driver_name: String,
    /// The namespace of the webhook's Service and Secret.
    pub namespace: String,
}

/// Why the webhook can't run on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its address.
    #[error("--webhook-address {address} can't be served")]
    Bind {
        /// As it was asked for.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// Its certificates.
    #[error(transparent)]
    Certificates(#[from] CertificateError),
    /// The TLS library.
    #[error("TLS can't be set up")]
    Tls(#[from] rustls::Error),
}

/// A webhook that has its address, and doesn't answer yet.
#[derive(Debug)]
pub struct Webhook {
    listener: TcpListener,
    address: SocketAddr,
    args: Args,
    site: Site,
    metrics: Metrics,
}

impl Webhook {
    /// Takes the address; none where there is to be no webhook.
    pub async fn bind(args: Args, site: Site, metrics: Metrics) -> Result<Option<Self>, Error> {
        let Some(address) = args.webhook_address else { return Ok(None) };
        let failed = |source| Error::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Some(Self { listener, address, args, site, metrics }))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`. Connections that come before there is a certificate are refused.
    pub async fn run(self, client: Client, stop: CancellationToken) -> Result<(), Error> {
        let Self { listener, address, args, site, metrics } = self;
        tracing::info!(%address, driver = site.driver_name, "the admission webhook listens");
        let (identity, keeping) = certs::keep(&args, &site, client, stop.clone())?;
        metrics.runs_by(identity.clone());
        let router = http::router(Arc::from(site.driver_name), metrics);
        let result = tls::serve(listener, identity, router, stop.clone()).await;
        stop.cancel();
        // It ends with `stop`.
        let _ = keeping.await;
        Ok(result?)
    }
}

/// Serves the webhook until `stop`; where there is to be none, does nothing until then.
pub async fn run(
    args: Args,
    site: Site,
    metrics: Metrics,
    client: Client,
    stop: CancellationToken,
) -> Result<(), Error> {
    if let Some(webhook) = Webhook::bind(args, site, metrics).await? {
        return webhook.run(client, stop).await;
    }
    stop.cancelled().await;
    Ok(())
}
