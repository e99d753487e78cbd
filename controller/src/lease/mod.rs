//! Which replica acts: the one that holds a Lease (coordination.k8s.io/v1).
//!
//! A replica holds it from before its last renewal was sent until two thirds of the Lease's duration later; another one
//! takes it no sooner than a whole duration after it saw that renewal. So one has stopped before the next begins, whatever
//! the clocks of the two say and however long an answer takes.
mod decide;

use std::time::Duration;

use decide::{Seen, Step, decide, held_until};
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

/// Which Lease, and for whom.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Differs between replicas.
    pub(crate) identity: String,
    /// Whole seconds.
    pub(crate) duration: Duration,
}

/// Whether this replica may act.
#[derive(Debug, Clone)]
pub(crate) struct Leadership(watch::Receiver<Option<Instant>>);

impl Leadership {
    /// Until when it may; none if it may not now.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.0.borrow().filter(|until| Instant::now() < *until)
    }

    /// Waits for a renewal, a gain or a loss.
    pub(crate) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The Lease's part of one replica.
pub(crate) struct Holder {
    api: Api<Lease>,
    settings: Settings,
    seen: Option<Seen>,
    until: watch::Sender<Option<Instant>>,
}

impl Holder {
    pub(crate) fn new(client: Client, settings: Settings) -> (Self, Leadership) {
        let (until, leadership) = watch::channel(None);
        let api = Api::namespaced(client, &settings.namespace);
        (Self { api, settings, seen: None, until }, Leadership(leadership))
    }

    /// Takes the Lease when it is free, and keeps it, until `stop`; then gives it back.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let third = self.settings.duration / 3;
        loop {
            let begun = Instant::now();
            let pause = match stop.run_until_cancelled(timeout(third, self.attempt())).await {
                None => break,
                Some(Ok(Ok(true))) => {
                    self.tell(Some(held_until(begun, self.settings.duration)));
                    third
                }
                Some(Ok(Ok(false))) => {
                    self.tell(None);
                    third
                }
                // What was held is held until its time is over.
                Some(Ok(Err(error))) => self.failed(&crate::report(&error)),
                Some(Err(_)) => self.failed("no answer from the API server"),
            };
            if stop.run_until_cancelled(tokio::time::sleep_until(begun + pause)).await.is_none() {
                break;
            }
        }
        self.release().await;
    }

    fn failed(&mut self, error: &str) -> Duration {
        tracing::warn!(lease = self.settings.name, error, "the Lease can't be taken or renewed");
        // It isn't known what became of it.
        self.seen = self.seen.take().filter(|seen| seen.holder() != Some(&self.settings.identity));
        self.settings.duration / 12
    }

    fn tell(&self, until: Option<Instant>) {
        let was = self.until.borrow().is_some_and(|until| Instant::now() < until);
        match (was, until.is_some()) {
            (false, true) => tracing::info!(lease = self.settings.name, "leading"),
            (true, false) => tracing::info!(lease = self.settings.name, "another replica leads"),
            _ => {}
        }
        self.until.send_replace(until);
    }

    /// Whether the Lease is this replica's.
    async fn attempt(&mut self) -> kube::Result<bool> {
        let is_mine = self.seen.as_ref().and_then(Seen::holder) == Some(&self.settings.identity);
        // One's own needs no look: a renewal of an old one is refused.
        if !is_mine {
            let found = self.api.get_opt(&self.settings.name).await?;
            self.seen = found.map(|lease| Seen::new(self.seen.as_ref(), lease, Instant::now()));
        }
        let step = decide(self.seen.as_ref(), &self.settings.identity, Instant::now());
        let lease = match (step, &self.seen) {
            (Step::Wait, _) => return Ok(false),
            (Step::Create, _) | (_, None) => self.api.create(&PostParams::default(), &self.lease(step, None)).await,
            (_, Some(seen)) => {
                let lease = self.lease(step, Some(&seen.lease));
                self.api.replace(&self.settings.name, &PostParams::default(), &lease).await
            }
        };
        match lease {
            Ok(lease) => {
                self.seen = Some(Seen::new(self.seen.as_ref(), lease, Instant::now()));
                Ok(true)
            }
            // Another replica was first, or somebody wrote something else: the next look says which.
            Err(kube::Error::Api(status)) if status.code == 409 => {
                self.seen = None;
                if is_mine { Err(kube::Error::Api(status)) } else { Ok(false) }
            }
            Err(error) => Err(error),
        }
    }

    /// The Lease as it is to be written; an update keeps the version that it is of.
    fn lease(&self, step: Step, old: Option<&Lease>) -> Lease {
        let now = MicroTime(Timestamp::now());
        let mut lease = old.cloned().unwrap_or_else(|| Lease {
            metadata: ObjectMeta { name: Some(self.settings.name.clone()), ..ObjectMeta::default() },
            ..Lease::default()
        });
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        spec.lease_duration_seconds = i32::try_from(self.settings.duration.as_secs()).ok();
        spec.renew_time = Some(now.clone());
        if step != Step::Renew {
            spec.holder_identity = Some(self.settings.identity.clone());
            spec.acquire_time = Some(now);
            // It counts changes of the holder: the first is none.
            spec.lease_transitions = Some(spec.lease_transitions.map_or(0, |count| count.saturating_add(1)));
        }
        lease
    }

    /// Gives the Lease back, so that another replica needn't wait.
    async fn release(mut self) {
        self.until.send_replace(None);
        let Some(mut lease) = self.seen.take().filter(|seen| seen.holder() == Some(&self.settings.identity)) else {
            return;
        };
        if let Some(spec) = &mut lease.lease.spec {
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
        }
        let parameters = PostParams::default();
        let releasing = self.api.replace(&self.settings.name, &parameters, &lease.lease);
        match timeout(Duration::from_secs(5), releasing).await {
            Ok(Ok(_)) => tracing::info!(lease = self.settings.name, "the Lease is released"),
            Ok(Err(error)) => tracing::warn!(error = crate::report(&error), "the Lease can't be released"),
            Err(_) => tracing::warn!("the Lease can't be released: no answer from the API server"),
        }
    }
}
