//! Keeps what is published at what inventory, policy, holdings and the API server together allow.
use std::{sync::Arc, time::SystemTime};

use aliquot_model::Inventory;
use aliquot_params::policy::Policy;
use dra_plugin::{
    DeviceHealth, DriverName,
    slices::{DroppedField, Feature, Handle, NodeName, Pool, PoolName, PublishStatus, Rehearsal, rehearse},
};
use tokio::{sync::watch, time::Duration};
use tokio_util::sync::CancellationToken;

use crate::{
    claim::Claims,
    discovery::View,
    notices::Notices,
    offer::{self, Holding, Layout, Offered},
    policy::InForce,
};

/// Claims come in bursts; what they change of the offer is published once.
const SETTLE: Duration = Duration::from_millis(50);
/// After this, whoever gave no answer is asked again: the API server, or the records of what claims hold.
const AGAIN: Duration = Duration::from_secs(1);
/// While GPUs wait for their holders to leave, these are looked at: another instance of the driver (a rolling update)
/// tells nobody of its unprepares.
const LOOK: Duration = Duration::from_secs(10);

/// What the loop works with.
pub(crate) struct Offering {
    pub(crate) client: kube::Client,
    pub(crate) driver: DriverName,
    pub(crate) node: NodeName,
    pub(crate) pool: PoolName,
    pub(crate) publishing: Handle,
    pub(crate) healths: watch::Sender<Vec<DeviceHealth>>,
    pub(crate) notices: Notices,
}

/// What is known of the API server.
#[derive(Debug, Default)]
struct Server {
    /// None until it was asked.
    layout: Option<Layout>,
}

impl Offering {
    /// Publishes at every change until `stop`.
    pub(crate) async fn run(
        self,
        mut view: watch::Receiver<View>,
        mut policy: watch::Receiver<InForce>,
        claims: Arc<Claims>,
        stop: CancellationToken,
    ) {
        let mut holders = claims.changes();
        let mut status = self.publishing.status();
        let mut server = Server::default();
        let mut told = Vec::new();
        loop {
            let now = view.borrow_and_update().clone();
            let in_force = policy.borrow_and_update().policy();
            holders.borrow_and_update();
            let publishing = async {
                match (now, in_force) {
                    (View::Unavailable(_), _) => {
                        self.publish(Offered::default());
                        self.healths.send_replace(Vec::new());
                        None
                    }
                    (View::Ready(found), Some(policy)) => match claims.holdings() {
                        Ok(holdings) => self.offer(&found.inventory, &policy, &holdings, &mut server, &mut told).await,
                        Err(error) => {
                            let error = crate::report(&error);
                            tracing::warn!(error, "what is published stays until it is known what claims hold");
                            Some(AGAIN)
                        }
                    },
                    (View::Searching, _) | (_, None) => None,
                }
            };
            let Some(again) = stop.run_until_cancelled(publishing).await else { return };
            tokio::select! {
                () = stop.cancelled() => return,
                changed = view.changed() => if changed.is_err() { return },
                // Whoever changes the policy may have changed the cluster for it.
                Ok(()) = policy.changed() => server.layout = None,
                Ok(()) = holders.changed() => tokio::time::sleep(SETTLE).await,
                Ok(()) = status.changed() => {
                    if let PublishStatus::Published { dropped, .. } = &*status.borrow_and_update() {
                        server.learn(dropped, &self.notices);
                    }
                }
                () = tokio::time::sleep(again.unwrap_or_default()), if again.is_some() => {}
            }
        }
    }

    /// When to look again, where no event tells.
    async fn offer(
        &self,
        inventory: &Inventory,
        policy: &Policy,
        holdings: &[Holding],
        server: &mut Server,
        told: &mut Vec<String>,
    ) -> Option<Duration> {
        let mut offered = offer::offered(inventory, policy, holdings, Layout::Counters);
        if offered.needs_counters() {
            let layout = match server.layout {
                Some(layout) => layout,
                None => match self.ask(&offered).await {
                    Some(layout) => *server.layout.insert(layout),
                    None => return Some(AGAIN),
                },
            };
            if layout == Layout::Fixed {
                offered = offer::offered(inventory, policy, holdings, layout);
            }
        }
        let faults: Vec<String> = offered.faults.iter().map(ToString::to_string).collect();
        for fault in faults.iter().filter(|fault| !told.contains(fault)) {
            tracing::error!(fault, "the policy doesn't fit a GPU, which is not offered");
            self.notices.warn_node("PolicyDoesNotFit", format!("a GPU is not offered: {fault}"));
        }
        *told = faults;
        self.healths.send_replace(offer::health(inventory, &offered, holdings, &self.pool, SystemTime::now()));
        let again = (!offered.waiting.is_empty()).then_some(LOOK);
        self.publish(offered);
        again
    }

    /// Asks the API server, by a dry run, whether it stores what both forms need.
    async fn ask(&self, offered: &Offered) -> Option<Layout> {
        let rehearsal = rehearse(&self.client, &self.driver, &self.node, &self.as_pool(offered.clone())).await;
        let reason = match rehearsal {
            Ok(Rehearsal::Complete) => return Some(Layout::Counters),
            Ok(Rehearsal::Dropped(dropped)) => match lacking(&dropped) {
                None => return Some(Layout::Counters),
                Some(reason) => format!("the API server doesn't store {reason}"),
            },
            Ok(Rehearsal::Refused(reason)) => reason,
            Err(error) => {
                tracing::warn!(%error, "devices are not published yet; asking again");
                return None;
            }
        };
        tell_fixed(&reason, &self.notices);
        Some(Layout::Fixed)
    }

    fn publish(&self, offered: Offered) {
        if let Err(faults) = self.publishing.publish(self.as_pool(offered)) {
            tracing::error!(%faults, "the API server would refuse these devices; what was published before stays");
        }
    }

    fn as_pool(&self, offered: Offered) -> Pool {
        Pool { name: self.pool.clone(), devices: offered.devices, counters: offered.counters }
    }
}

impl Server {
    /// What was published is read back all the same: a gate can be switched off while this runs.
    fn learn(&mut self, dropped: &[DroppedField], notices: &Notices) {
        if self.layout == Some(Layout::Counters)
            && let Some(reason) = lacking(dropped)
        {
            tell_fixed(&format!("the API server no longer stores {reason}"), notices);
            self.layout = Some(Layout::Fixed);
        }
    }
}

/// The first field without which a GPU can't be whole and shared at once.
fn lacking(dropped: &[DroppedField]) -> Option<String> {
    let needed =
        |field: &&DroppedField| matches!(field.feature, Feature::ConsumableCapacity | Feature::PartitionableDevices);
    dropped.iter().find(needed).map(ToString::to_string)
}

fn tell_fixed(reason: &str, notices: &Notices) {
    let note = format!(
        "GPUs can't be offered whole and as shares at once, so each is what the policy's fallback says, whole if it says \
         nothing: {reason}. Kubernetes 1.36 has what it takes on by default; before, set the feature gates \
         DRAConsumableCapacity and DRAPartitionableDevices on the API server, scheduler and kubelet, and restart this driver"
    );
    tracing::warn!("{note}");
    notices.warn_node("SharesFixed", note);
}
