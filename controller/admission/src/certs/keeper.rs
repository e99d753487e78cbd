//! Keeps certificates in a Secret and the trust in them in the webhook's configuration, beside any number of replicas.
//!
//! Every replica does the same; a write that is based on an old version is refused by the API server, and what the other
//! one wrote comes by watch. At rest nothing is asked for.
use std::{
    pin::pin,
    time::{Duration, Instant, SystemTime},
};

use futures::StreamExt as _;
use k8s_openapi::{
    ByteString,
    api::{admissionregistration::v1::ValidatingWebhookConfiguration, core::v1::Secret},
};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, PostParams},
    runtime::{WatchStreamExt as _, watcher::watch_object},
};
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use watch_patience::Patience;

use super::{
    InForce,
    decide::{Action, Terms},
    stored::Stored,
};
use aliquot_daemon::report;

/// How long the API server may take for a write.
const DEADLINE: Duration = Duration::from_secs(10);
/// The least time between writes: someone who wants otherwise, such as a replica whose clock is wrong by hours, isn't chased.
const BREATH: Duration = Duration::from_secs(2);

/// Which objects.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    /// The Secret's.
    pub(crate) namespace: String,
    /// Of the Secret.
    pub(crate) secret: String,
    /// Of the `ValidatingWebhookConfiguration`.
    pub(crate) configuration: String,
}

/// What a turn ran into.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("Secret {0} is not there: create it, it may be empty (it is part of webhook.yaml)")]
    NoSecret(String),
    #[error("ValidatingWebhookConfiguration {0} is not there: create it (it is part of webhook.yaml)")]
    NoConfiguration(String),
    #[error("no certificate can be made")]
    Issue(#[from] rcgen::Error),
    #[error("{0} can't be written")]
    Write(String, #[source] kube::Error),
    #[error("{0} can't be written: the API server doesn't answer")]
    Silent(String),
}

/// All that a turn needs.
pub(crate) struct Keeper {
    secrets: Api<Secret>,
    // Not the typed kind: fields that it doesn't know would be lost in a replace.
    configurations: Api<DynamicObject>,
    names: Names,
    terms: Terms,
    in_force: InForce,
    secret: Option<Secret>,
    configuration: Option<DynamicObject>,
    /// The bundle that the configuration has, and since when it was seen there.
    trusted: Option<(String, Instant)>,
    served: Option<Vec<u8>>,
    wrote: bool,
    told: Option<String>,
}

impl Keeper {
    pub(crate) fn new(client: Client, names: Names, terms: Terms, in_force: InForce) -> Self {
        let kind = ApiResource::erase::<ValidatingWebhookConfiguration>(&());
        Self {
            secrets: Api::namespaced(client.clone(), &names.namespace),
            configurations: Api::all_with(client, &kind),
            names,
            terms,
            in_force,
            secret: None,
            configuration: None,
            trusted: None,
            served: None,
            wrote: false,
            told: None,
        }
    }

    /// Until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut secrets = pin!(watch_object(self.secrets.clone(), &self.names.secret).backoff(Patience::default()));
        let watched = watch_object(self.configurations.clone(), &self.names.configuration);
        let mut configurations = pin!(watched.backoff(Patience::default()));
        let mut ticks = interval(self.terms.tick());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut secret_known, mut configuration_known) = (false, false);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(seen) = secrets.next() => match seen {
                    Ok(seen) => (self.secret, secret_known) = (seen, true),
                    Err(error) => self.tell(Some(report(&error))),
                },
                Some(seen) = configurations.next() => match seen {
                    Ok(seen) => (self.configuration, configuration_known) = (seen, true),
                    Err(error) => self.tell(Some(report(&error))),
                },
                _ = ticks.tick() => {}
            }
            if secret_known && configuration_known {
                #[allow(clippy::disallowed_methods, reason = "certificates are of the clock of the day")]
                let now = SystemTime::now();
                let result = self.turn(now).await;
                self.tell(result.err().map(|trouble| report(&trouble)));
            }
            if std::mem::take(&mut self.wrote) {
                stop.run_until_cancelled(sleep(BREATH.min(self.terms.tick()))).await;
            }
        }
    }

    async fn turn(&mut self, now: SystemTime) -> Result<(), Trouble> {
        let Some(secret) = self.secret.clone() else { return Err(Trouble::NoSecret(self.names.secret.clone())) };
        let stored = Stored::read(&secret.data.clone().unwrap_or_default());
        self.serve(&stored, now);
        // Trust comes first: what is staged is promoted only once it is trusted.
        let trust = self.trust(&stored.bundle()).await;
        let trusted = self.trusted.as_ref().filter(|(bundle, _)| *bundle == stored.bundle());
        let action = self.terms.decide(&stored, trusted.map(|(_, since)| since.elapsed()), now);
        if action == Action::Keep {
            return trust;
        }
        let stored = self.terms.act(action, &stored, now)?;
        if self.store(secret, &stored, action).await? {
            self.serve(&stored, now);
            return self.trust(&stored.bundle()).await;
        }
        trust
    }

    /// Serves what is stored, where it is good.
    fn serve(&mut self, stored: &Stored, now: SystemTime) {
        let Some(current) = &stored.current else { return };
        if self.served.as_deref() != Some(current.certificate.as_bytes())
            && let Some(certified) = self.terms.usable(current, now)
        {
            self.in_force.send_replace(Some(certified));
            self.served = Some(current.certificate.as_bytes().to_vec());
            tracing::info!(secret = self.names.secret, "a certificate is in force");
        }
    }

    /// Whether it is stored; where another replica was faster, its certificates come by watch.
    async fn store(&mut self, mut secret: Secret, stored: &Stored, action: Action) -> Result<bool, Trouble> {
        // What others keep there stays.
        let mut data = secret.data.take().unwrap_or_default();
        data.retain(|name, _| !name.ends_with("ca.crt") && !name.ends_with("tls.crt") && !name.ends_with("tls.key"));
        data.extend::<std::collections::BTreeMap<String, ByteString>>(stored.write());
        secret.data = Some(data);
        let what = format!("Secret {}", self.names.secret);
        let params = PostParams::default();
        self.wrote = true;
        let Some(secret) = written(&what, self.secrets.replace(&self.names.secret, &params, &secret)).await? else {
            return Ok(false);
        };
        tracing::info!(?action, secret = self.names.secret, "certificates were renewed");
        self.secret = Some(secret);
        Ok(true)
    }

    /// Has the configuration trust a bundle, and remembers since when it does.
    async fn trust(&mut self, bundle: &str) -> Result<(), Trouble> {
        let name = self.names.configuration.clone();
        let Some(mut configuration) = self.configuration.clone() else {
            self.trusted = None;
            return Err(Trouble::NoConfiguration(name));
        };
        if bundle.is_empty() {
            return Ok(());
        }
        if set_bundle(&mut configuration.data, bundle) {
            (self.trusted, self.wrote) = (None, true);
            let what = format!("ValidatingWebhookConfiguration {name}");
            let params = PostParams::default();
            let Some(now) = written(&what, self.configurations.replace(&name, &params, &configuration)).await? else {
                return Ok(());
            };
            self.configuration = Some(now);
            tracing::info!(configuration = name, "the webhook's authorities were written");
        }
        if self.trusted.as_ref().is_none_or(|(known, _)| known != bundle) {
            self.trusted = Some((bundle.to_owned(), Instant::now()));
        }
        Ok(())
    }

    /// Each trouble once, and that it is over.
    fn tell(&mut self, trouble: Option<String>) {
        if trouble == self.told {
            return;
        }
        if let Some(trouble) = &trouble {
            tracing::warn!(error = trouble, "the webhook's certificates can't be kept up to date");
        } else {
            tracing::info!("the webhook's certificates are up to date");
        }
        self.told = trouble;
    }
}

/// What was written; none where another writer was faster.
async fn written<T>(what: &str, write: impl Future<Output = kube::Result<T>>) -> Result<Option<T>, Trouble> {
    match timeout(DEADLINE, write).await {
        Ok(Ok(object)) => Ok(Some(object)),
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => Ok(None),
        Ok(Err(error)) => Err(Trouble::Write(what.to_owned(), error)),
        Err(_) => Err(Trouble::Silent(what.to_owned())),
    }
}

/// Puts a bundle into every webhook of a configuration; whether that changed anything.
fn set_bundle(configuration: &mut Value, bundle: &str) -> bool {
    // The type that writes its bytes as the API server does.
    let encoded = json!(ByteString(bundle.as_bytes().to_vec()));
    let mut changed = false;
    for webhook in configuration.get_mut("webhooks").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(client) = webhook.get_mut("clientConfig").and_then(Value::as_object_mut) else { continue };
        changed |= client.insert("caBundle".to_owned(), encoded.clone()).as_ref() != Some(&encoded);
    }
    changed
}
