//! The webhook's certificates: made and renewed by itself, or followed in files.
mod decide;
mod files;
mod issue;
mod keeper;
mod pair;
mod stored;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use kube::Client;
use rustls::sign::CertifiedKey;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{Args, Site, tls::Identity};

/// Why there can be no certificates.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something that no certificate can be for.
    #[error(
        "no certificate can be for {0:?}: DNS names and IP addresses are possible (--webhook-service, --webhook-host)"
    )]
    Host(String),
}

pub(crate) use pair::end;

/// Where new certificates go.
type InForce = watch::Sender<Option<Arc<CertifiedKey>>>;

/// Keeps the certificate in force up to date until `stop`.
pub(crate) fn keep(
    args: &Args,
    site: &Site,
    client: Client,
    stop: CancellationToken,
) -> Result<(Identity, JoinHandle<()>), Error> {
    let (sender, identity) = watch::channel(None);
    let task = if let Some(dir) = &args.webhook_cert_dir {
        tokio::spawn(files::follow(dir.clone(), sender, stop))
    } else {
        let service = format!("{}.{}.svc", args.webhook_service, site.namespace);
        let hosts = std::iter::once(&service).chain(&args.webhook_host);
        let hosts = hosts.map(|host| pair::Host::new(host).ok_or_else(|| Error::Host(host.clone())));
        let terms = decide::Terms::new(hosts.collect::<Result<_, _>>()?, args.webhook_cert_life);
        let names = keeper::Names {
            namespace: site.namespace.clone(),
            secret: args.webhook_secret.clone(),
            configuration: args.webhook_configuration.clone(),
        };
        tokio::spawn(keeper::Keeper::new(client, names, terms, sender).run(stop))
    };
    Ok((identity, task))
}
