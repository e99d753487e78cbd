//! Keeps what is published at what inventory, policy, holdings, others and the API server together allow.
mod server;

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use aliquot_model::{Gpu, GpuUuid, Inventory};
use aliquot_params::policy::Policy;
use dra_plugin::{
    Backoff, DeviceHealth, DriverName, Registration,
    slices::{Handle, NodeName, Pool, PoolName, PublishStatus, rehearse},
};
use server::{News, Server};
use tokio::{
    sync::watch,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

use crate::{
    claim::{Claims, Failures},
    discovery::View,
    health::{self, Health, Ward},
    notices::Notices,
    offer::{
        self, Holding, Layout, Offered, evicted,
        lost::Lost,
        taints::{self, Effect, Mark, Marks, Storage},
    },
    others::{self, Elsewhere, Latest},
    policy::InForce,
};

/// Claims come in bursts; what they change of the offer is published once.
const SETTLE: Duration = Duration::from_millis(50);
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
    /// How GPUs are marked that others hand out too.
    pub(crate) elsewhere: others::Marker,
    /// How ill GPUs are marked.
    pub(crate) illness: health::Marker,
}

/// What decides what is published.
pub(crate) struct Sources {
    pub(crate) view: watch::Receiver<View>,
    pub(crate) policy: watch::Receiver<InForce>,
    pub(crate) others: Latest,
    pub(crate) health: watch::Receiver<Health>,
    pub(crate) claims: Arc<Claims>,
}

/// What a GPU has that can't be taken from the host's kernel drivers, or given back.
const NOT_MOVED: &str = "not-moved";

/// Which GPUs are not for new claims.
struct Kept<'a> {
    elsewhere: &'a Elsewhere,
    ward: &'a Ward,
    stuck: &'a BTreeMap<GpuUuid, Failures>,
    /// And what virtual machines have lost.
    lost: Lost,
}

impl Kept<'_> {
    /// The GPUs that don't change their kernel drivers, and until when that is to matter.
    fn stuck(&self, now: Instant) -> impl Iterator<Item = (&GpuUuid, Instant)> {
        let kept =
            self.stuck.iter().filter_map(|(gpu, failures)| Some((gpu, Instant::from_std(failures.kept_until()?))));
        kept.filter(move |(_, until)| *until > now)
    }
}

/// What has come of it so far.
struct State {
    server: Server,
    taints: Storage,
    /// The GPUs as last read, and those that have gone since and are held.
    seen: Vec<Gpu>,
    /// What was told of GPUs that the policy doesn't fit.
    faults: Vec<String>,
    /// What was told of what virtual machines have lost.
    lost: Lost,
    /// What was told of records that can't be read.
    unread: Option<String>,
    pauses: Backoff,
}

impl State {
    fn new() -> Self {
        Self {
            server: Server::new(Instant::now()),
            taints: Storage::default(),
            seen: Vec::new(),
            faults: Vec::new(),
            lost: Lost::default(),
            unread: None,
            pauses: fresh(),
        }
    }

    fn with_evicted(&mut self, inventory: &Inventory, marks: &Marks, holdings: &[Holding]) -> Inventory {
        let all = evicted::with_evicted(inventory, &self.seen, marks, holdings);
        let is_here = |gpu: &Gpu| inventory.gpus().iter().any(|here| here.uuid == gpu.uuid);
        self.seen.retain(|gpu| !is_here(gpu) && holdings.iter().any(|holding| holding.gpu == gpu.uuid));
        self.seen.extend_from_slice(inventory.gpus());
        all
    }
}

fn fresh() -> Backoff {
    Backoff::new(Duration::from_secs(1), LOOK)
}

impl Offering {
    /// Publishes at every change until `stop`, from when the kubelet knows the driver: it fails a claim that comes before, and
    /// tries that again only with its next look at the pod, which may be long after.
    pub(crate) async fn run(
        self,
        sources: Sources,
        mut registration: watch::Receiver<Registration>,
        stop: CancellationToken,
    ) {
        let registered = registration.wait_for(|now| *now == Registration::Registered);
        if !matches!(stop.run_until_cancelled(registered).await, Some(Ok(_))) {
            return;
        }
        let Sources { mut view, mut policy, mut others, mut health, claims } = sources;
        let mut holders = claims.changes();
        let mut stuck = claims.stuck();
        let (mut status, mut contested) = (self.publishing.status(), self.publishing.contested());
        let mut state = State::new();
        loop {
            let now = view.borrow_and_update().clone();
            let in_force = policy.borrow_and_update().policy();
            let known = others.borrow_and_update().clone();
            let ward = health.borrow_and_update().ward.clone();
            let failures = stuck.borrow_and_update().clone();
            holders.borrow_and_update();
            contested.borrow_and_update();
            let publishing = async {
                match (now, in_force.zip(known)) {
                    (View::Unavailable(_), _) => {
                        self.publish(Offered::default());
                        self.healths.send_replace(Vec::new());
                        None
                    }
                    (View::Ready(found), Some((policy, known))) => {
                        match claims.holdings().and_then(|held| Ok((held, claims.passed()?))) {
                            Ok((holdings, passed)) => {
                                (state.unread, state.pauses) = (None, fresh());
                                let lost = Lost::of(passed, &found.inventory);
                                let kept = Kept { elsewhere: &known.elsewhere, ward: &ward, stuck: &failures, lost };
                                self.offer(&found.inventory, &policy, &holdings, kept, &mut state).await
                            }
                            Err(error) => {
                                let error = crate::report(&error);
                                if state.unread.as_ref() != Some(&error) {
                                    tracing::warn!(error, "what is published stays until it is known what claims hold");
                                }
                                state.unread = Some(error);
                                Some(Instant::now() + state.pauses.pause())
                            }
                        }
                    }
                    (View::Searching, _) | (_, None) => None,
                }
            };
            let Some(again) = stop.run_until_cancelled(publishing).await else { return };
            tokio::select! {
                () = stop.cancelled() => return,
                changed = view.changed() => if changed.is_err() { return },
                Ok(()) = policy.changed() => state.server.doubt(Instant::now()),
                Ok(()) = others.changed() => {}
                Ok(()) = health::changed(&mut health, &ward) => {}
                Ok(()) = stuck.changed() => {}
                Ok(()) = holders.changed() => tokio::time::sleep(SETTLE).await,
                // Another instance of the driver may know of claims of which nobody told this one.
                Ok(()) = contested.changed() => {}
                Ok(()) = status.changed() => {
                    if let PublishStatus::Published { dropped, .. } = &*status.borrow_and_update() {
                        state.taints.learn(dropped);
                        self.tell(state.server.learn(dropped, Instant::now()));
                    }
                }
                () = tokio::time::sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {}
            }
        }
    }

    /// When to look again, where no event tells.
    async fn offer(
        &self,
        inventory: &Inventory,
        policy: &Policy,
        holdings: &[Holding],
        kept: Kept<'_>,
        state: &mut State,
    ) -> Option<Instant> {
        // Asked for all that the policy wants: what is offered meanwhile, around those who hold something, may need less.
        let wanted = offer::offered(inventory, policy, &[], Layout::Counters);
        let (mut layout, mut again) = (Layout::Counters, None);
        if wanted.needs_counters() {
            if state.server.due().is_some_and(|due| due <= Instant::now()) {
                let answer = rehearse(&self.client, &self.driver, &self.node, &self.as_pool(wanted)).await;
                self.tell(state.server.hear(answer, Instant::now()));
            }
            again = state.server.due();
            layout = match state.server.layout() {
                Some(layout) => layout,
                None => return again,
            };
        }
        let ill = health::ill(kept.ward, inventory);
        let now = Instant::now();
        let stuck = kept.stuck(now).map(|(gpu, _)| (gpu.clone(), self.not_moved()));
        let marks: Marks = self.elsewhere.marks(kept.elsewhere).chain(self.illness.marks(&ill)).chain(stuck).collect();
        again = again.into_iter().chain(kept.stuck(now).map(|(_, until)| until)).min();
        if marks.is_empty() && kept.lost.is_empty() {
            state.taints = Storage::default();
        }
        let with_evicted = state.with_evicted(inventory, &marks, holdings);
        let mut offered = offer::offered(&with_evicted, policy, holdings, layout);
        taints::put(&mut offered, &with_evicted, &marks, state.taints);
        offered.devices.retain(|device| device.taints.is_some() || evicted::is_of(inventory, device));
        kept.lost.put(&mut offered, inventory, &self.illness.lost(), state.taints);
        let faults: Vec<String> = offered.faults.iter().map(ToString::to_string).collect();
        for fault in faults.iter().filter(|fault| !state.faults.contains(fault)) {
            tracing::error!(fault, "the policy doesn't fit a GPU, which is not offered");
            self.notices.warn_node("PolicyDoesNotFit", format!("a GPU is not offered: {fault}"));
        }
        state.faults = faults;
        let told = ill.iter().map(|(gpu, cause)| (gpu.clone(), cause.explained()));
        let told = told.chain(kept.lost.reasons()).collect();
        #[allow(clippy::disallowed_methods, reason = "the kubelet is told the time, and nothing is decided by it")]
        let now = SystemTime::now();
        self.tell_lost(kept.lost, state);
        self.healths.send_replace(offer::health(inventory, &offered, holdings, &told, &self.pool, now));
        let look = (!offered.waiting.is_empty()).then(|| Instant::now() + LOOK);
        self.publish(offered);
        again.into_iter().chain(look).min()
    }

    fn not_moved(&self) -> Mark {
        Mark::new(&format!("{}/{NOT_MOVED}", self.driver), "kernel-driver", Effect::NoSchedule)
    }

    /// Tells those whose virtual machines have lost a GPU, and the log when it is theirs again.
    fn tell_lost(&self, lost: Lost, state: &mut State) {
        for (passed, why) in lost.iter().filter(|(passed, why)| !state.lost.has(&passed.device, why)) {
            let note = format!(
                "device {}, which this claim holds for a virtual machine, is lost: {why}. When that is mended on the node, \
                 delete the pod, so that its virtual machine begins anew",
                passed.device
            );
            tracing::error!(claim = %passed.claim, device = %passed.device, why, "a virtual machine has lost its GPU");
            self.notices.warn_users(&passed.claim, &passed.pods, "VfioGPULost", note);
        }
        for (passed, _) in state.lost.iter().filter(|(passed, _)| !lost.holds(&passed.device)) {
            tracing::info!(claim = %passed.claim, device = %passed.device,
                "a GPU that a virtual machine had lost is there again, or held no longer");
        }
        state.lost = lost;
    }

    fn publish(&self, offered: Offered) {
        if let Err(faults) = self.publishing.publish(self.as_pool(offered)) {
            tracing::error!(%faults, "the API server would refuse these devices; what was published before stays");
        }
    }

    fn as_pool(&self, offered: Offered) -> Pool {
        Pool { name: self.pool.clone(), devices: offered.devices, counters: offered.counters }
    }

    fn tell(&self, news: Option<News>) {
        match news {
            None => {}
            Some(News::Silent(reason)) => tracing::warn!("{reason}; what is published stays, and it is asked again"),
            Some(News::Refused(reason)) => {
                let note = format!(
                    "{reason}. Until it answers, what is published of this node's GPUs stays as it is; it is asked again. \
                     The driver needs the verb create on resourceslices, and webhooks for these must take dry runs"
                );
                tracing::error!("{note}");
                self.notices.warn_node("SharesUnknown", note);
            }
            Some(News::Fixed(reason)) => {
                let note = format!(
                    "GPUs can't be offered whole and as shares at once, so each is what the policy's fallback says, whole if \
                     it says nothing: {reason}. Kubernetes 1.36 has what it takes on by default; before, set the feature \
                     gates DRAConsumableCapacity and DRAPartitionableDevices on the API server, scheduler and kubelet. The \
                     API server is asked again from time to time"
                );
                tracing::warn!("{note}");
                self.notices.warn_node("SharesFixed", note);
            }
            Some(News::Both) => {
                let note = "the API server now stores what it takes: GPUs are offered whole and as shares at once";
                tracing::info!("{note}");
                self.notices.tell_node("SharesOffered", note.to_owned());
            }
        }
    }
}
