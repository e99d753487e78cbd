//! Tells in each claim what it was given: `status.devices` (KEP-4817).
//!
//! ```text
//! records ─┐
//! GPUs ────┼─> entry (pure) ─> ledger (pure): what is not there yet ─> write ─> resourceclaims/status
//! policy ──┘                        └─ what is there <───────────────────┘
//! ```
//! It is for those who look and for nothing else: no prepare waits for it, and an API server that takes none of it costs one
//! line in the log. Each change is written once, and what a restart finds there already is not written again. Nothing is
//! taken away when a claim is unprepared: the API server does that when the claim's devices are taken back.
mod entry;
mod ledger;
mod write;

use std::{sync::Arc, time::Duration};

use aliquot_model::Inventory;
use aliquot_params::policy::Policy;
use dra_plugin::Backoff;
use k8s_openapi::jiff::Timestamp;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    claim::Claims,
    discovery::View,
    health::{self, Health, Ward},
    policy::InForce,
};
use entry::Gpus;
use ledger::{Due, Ledger};
use write::{Outcome, Writer};

/// Prepares come in bursts, and these come first.
const SETTLE: Duration = Duration::from_millis(200);
/// How long after a refusal it is tried again: somebody may grant it.
const REFUSED: Duration = Duration::from_mins(5);

/// What decides what is told.
pub(crate) struct Sources {
    pub(crate) claims: Arc<Claims>,
    pub(crate) view: watch::Receiver<View>,
    pub(crate) policy: watch::Receiver<InForce>,
    pub(crate) health: watch::Receiver<Health>,
}

/// Who tells it.
pub(crate) struct Settings {
    pub(crate) client: kube::Client,
    /// Also the field manager.
    pub(crate) driver: String,
}

/// What came of it since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    /// Statuses that were written.
    pub(crate) written: u64,
    /// Tries that the API server didn't answer, or with an error of its own.
    pub(crate) failed: u64,
    /// Tries that it refused.
    pub(crate) refused: u64,
    /// Claims whose status is not as it should be, now.
    pub(crate) missing: usize,
}

/// Tells of each change until `stop`.
pub(crate) async fn follow(settings: Settings, sources: Sources, tally: watch::Sender<Tally>, stop: CancellationToken) {
    let Sources { claims, mut view, mut policy, mut health } = sources;
    let mut holders = claims.changes();
    let mut teller = Teller::new(settings, tally);
    loop {
        let (now, judged) = (view.borrow_and_update().clone(), policy.borrow_and_update().judged());
        let ward = health.borrow_and_update().ward.clone();
        holders.borrow_and_update();
        if let (View::Ready(found), Some(policy)) = (now, judged) {
            let telling = teller.tell(&claims, &found.inventory, &policy, &ward);
            if stop.run_until_cancelled(telling).await.is_none() {
                return;
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            Ok(()) = holders.changed() => tokio::time::sleep(SETTLE).await,
            changed = view.changed() => if changed.is_err() { return },
            Ok(()) = policy.changed() => {}
            Ok(()) = health::changed(&mut health, &ward) => {}
            () = tokio::time::sleep_until(teller.again()), if teller.waits() => teller.way = Way::Open,
        }
    }
}

/// Whether the API server takes it.
enum Way {
    Open,
    /// It is tried again then.
    Until(Instant),
    /// It stores no such field, and asking again would be one write after the other for nothing.
    Closed,
}

struct Teller {
    writer: Writer,
    gpus: Gpus,
    ledger: Ledger,
    way: Way,
    pauses: Backoff,
    /// Whether the log says that it doesn't work.
    has_told: bool,
    tally: watch::Sender<Tally>,
}

fn fresh() -> Backoff {
    Backoff::new(Duration::from_secs(1), Duration::from_mins(1))
}

impl Teller {
    fn new(settings: Settings, tally: watch::Sender<Tally>) -> Self {
        let Settings { client, driver } = settings;
        let (gpus, ledger) = (Gpus::default(), Ledger::new(driver.clone()));
        let writer = Writer::new(client, driver);
        Self { writer, gpus, ledger, way: Way::Open, pauses: fresh(), has_told: false, tally }
    }

    fn waits(&self) -> bool {
        matches!(self.way, Way::Until(_))
    }

    fn again(&self) -> Instant {
        if let Way::Until(at) = self.way { at } else { Instant::now() }
    }

    async fn tell(&mut self, claims: &Claims, inventory: &Inventory, policy: &Policy, ward: &Ward) {
        self.gpus.learn(inventory, policy, &health::ill(ward, inventory));
        match claims.prepared() {
            Ok(records) => self.ledger.wants(records, &self.gpus),
            Err(error) => return self.wait(&crate::report(&error)),
        }
        self.count(|_| {});
        if !matches!(self.way, Way::Open) {
            return;
        }
        while let Some(due) = self.ledger.next(now()) {
            let goes_on = self.tell_one(due).await;
            self.count(|_| {});
            if !goes_on {
                break;
            }
        }
        // Taking the last one out found that nothing is left to do about it.
        self.count(|_| {});
    }

    /// Whether to go on with the next one.
    async fn tell_one(&mut self, due: Due) -> bool {
        let (claim, outcome, is_write) = match due {
            Due::Look(claim) => {
                let outcome = self.writer.read(&claim).await;
                (claim, outcome, false)
            }
            Due::Write(claim, entries) => {
                let outcome = self.writer.write(&claim, &entries).await;
                (claim, outcome, true)
            }
        };
        match outcome {
            Outcome::There(entries) => {
                self.ledger.is_there(claim.uid(), entries);
                if is_write {
                    self.count(|tally| tally.written += 1);
                    self.works_again();
                }
                return true;
            }
            Outcome::Gone => {
                self.ledger.is_nowhere(claim.uid());
                return true;
            }
            Outcome::Invalid(reason) => {
                tracing::warn!(claim = %claim, claim.uid = %claim.uid(), reason, "status.devices of a claim can't be written");
                self.count(|tally| tally.refused += 1);
                self.ledger.is_nowhere(claim.uid());
                return true;
            }
            Outcome::Dropped => {
                self.way = Way::Closed;
                self.say(
                    "the API server stores no status.devices in claims (feature gate DRAResourceClaimDeviceStatus): which \
                     GPU a claim has is not told there; everything else works, and a restart of the driver tries again",
                );
            }
            Outcome::Refused(reason) => {
                self.count(|tally| tally.refused += 1);
                self.way = Way::Until(Instant::now() + REFUSED);
                self.say(&format!(
                    "the API server refuses status.devices of claims, so which GPU a claim has is not told there; everything \
                     else works: {reason}. The driver needs patch on resourceclaims/status and, from Kubernetes 1.36, \
                     associated-node:patch on resourceclaims/driver, as deploy/base/rbac.yaml grants them"
                ));
            }
            Outcome::Failed(reason) => {
                self.count(|tally| tally.failed += 1);
                self.wait(&reason);
            }
        }
        self.ledger.put_back(claim.uid());
        false
    }

    fn works_again(&mut self) {
        (self.way, self.pauses) = (Way::Open, fresh());
        if std::mem::take(&mut self.has_told) {
            tracing::info!("status.devices of claims is written again");
        }
    }

    fn wait(&mut self, reason: &str) {
        self.way = Way::Until(Instant::now() + self.pauses.pause());
        tracing::debug!(reason, "status.devices of claims is written later");
    }

    /// Once, until it works: each claim has a refusal of its own.
    fn say(&mut self, what: &str) {
        if !std::mem::replace(&mut self.has_told, true) {
            tracing::warn!("{what}");
        }
    }

    fn count(&self, change: impl FnOnce(&mut Tally)) {
        let missing = self.ledger.missing();
        self.tally.send_modify(|tally| {
            change(tally);
            tally.missing = missing;
        });
    }
}

/// As precise as Kubernetes writes times.
fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}
