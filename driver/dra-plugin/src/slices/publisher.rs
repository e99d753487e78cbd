//! Keeps the API server's slices as the driver wants them: writes on change, and nothing at rest.
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, stream::BoxStream};
use k8s_openapi::api::resource::v1::{ResourceSlice, ResourceSliceSpec};
use kube::runtime::{WatchStreamExt, watcher};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use watch_patience::Patience;

use super::{
    api::{CallError, SliceApi},
    debounce::Debounce,
    desired,
    diff::{Echo, Plan, diff},
    dropped::{Dropped, DroppedField},
    handle::Handle,
    mirror::{self, Mirror},
    pool::{NodeName, Pool},
    status::PublishStatus,
};
use crate::{backoff::Backoff, name::DriverName};

/// A pool that the API server refuses is tried again in case its rules change (an upgrade, a webhook).
const REFUSED: Duration = Duration::from_mins(1);

/// Publishes one node's pool. Slices stay when it ends: the kubelet removes those of a driver that does not come back.
pub struct Publisher {
    api: SliceApi,
    driver: DriverName,
    node: NodeName,
    desired: watch::Receiver<Option<Pool>>,
    status: watch::Sender<PublishStatus>,
    contested: watch::Sender<()>,
    /// Since the start.
    writes: Arc<AtomicU64>,
}

impl Publisher {
    /// A publisher that begins with [`Publisher::run`], and the handle by which it is told what to publish.
    pub fn new(client: kube::Client, driver: DriverName, node: NodeName) -> (Self, Handle) {
        let (desired, wanted) = watch::channel(None);
        let (status, told) = watch::channel(PublishStatus::default());
        let (contested, heard) = watch::channel(());
        let api = SliceApi::new(client, driver.clone(), node.clone());
        let writes = Arc::new(AtomicU64::new(0));
        let handle = Handle::new(desired, told, heard, Arc::clone(&writes));
        (Self { api, driver, node, desired: wanted, status, contested, writes }, handle)
    }

    /// Publishes until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let events = self.watch();
        let mut work = Work {
            publisher: self,
            mirror: Mirror::default(),
            echoes: Vec::new(),
            dropped: Vec::new(),
            last_generation: 0,
            backoff: fresh_backoff(),
        };
        stop.run_until_cancelled(work.run(events)).await;
    }

    fn watch(&self) -> BoxStream<'static, watcher::Result<watcher::Event<ResourceSlice>>> {
        let config = watcher::Config::default().fields(&self.api.selector());
        watcher(self.api.slices().clone(), config).backoff(Patience::default()).boxed()
    }
}

impl Pool {
    /// The slices that would be published, without their generation; for showing them without a cluster.
    pub fn slices(&self, driver: &DriverName, node: &NodeName) -> Vec<ResourceSliceSpec> {
        desired::slices(driver, node, self)
    }
}

struct Work {
    publisher: Publisher,
    mirror: Mirror,
    echoes: Vec<Echo>,
    dropped: Vec<DroppedField>,
    last_generation: i64,
    backoff: Backoff,
}

/// When to try again, and why the last try failed.
struct Retry {
    at: Instant,
    error: String,
}

impl Work {
    async fn run(&mut self, mut events: BoxStream<'static, watcher::Result<watcher::Event<ResourceSlice>>>) {
        let mut desired = self.publisher.desired.clone();
        let mut debounce = Debounce::default();
        let mut retry: Option<Instant> = None;
        let mut is_due = false;
        loop {
            if is_due && self.mirror.is_complete() {
                is_due = false;
                debounce.clear();
                retry = self.sync().await.map(|retry| {
                    tracing::warn!("devices are not published: {}; trying again", retry.error);
                    self.publisher.status.send_replace(PublishStatus::Failing { error: retry.error });
                    retry.at
                });
            }
            let look = [debounce.due(), retry].into_iter().flatten().min();
            tokio::select! {
                biased;
                changed = desired.changed() => match changed {
                    // Whatever the last try ran into, this is another pool.
                    Ok(()) => { desired.mark_unchanged(); retry = None; is_due = true; }
                    Err(_) => return std::future::pending().await,
                },
                event = events.next() => match event {
                    Some(Ok(event)) => match self.observe(event) {
                        Observed::First => is_due = true,
                        Observed::Change => {
                            debounce.event(Instant::now());
                            self.publisher.contested.send_replace(());
                        }
                        Observed::Nothing => {}
                    },
                    Some(Err(error)) => tracing::warn!(error = %crate::causes::with_causes(&error), "ResourceSlices cannot be watched; trying again"),
                    None => return,
                },
                () = sleep_until(look) => { retry = None; is_due = true; }
            }
        }
    }

    fn observe(&mut self, event: watcher::Event<ResourceSlice>) -> Observed {
        match event {
            watcher::Event::Init => self.mirror.begin_listing(),
            watcher::Event::InitApply(slice) => self.mirror.listed(slice),
            watcher::Event::InitDone => {
                let is_first = !self.mirror.is_complete();
                self.mirror.end_listing();
                if is_first {
                    return Observed::First;
                }
            }
            watcher::Event::Apply(slice) => self.mirror.put(slice),
            watcher::Event::Delete(slice) => self.mirror.remove(&mirror::uid(&slice)),
        }
        // Our own writes come back as events too.
        if self.mirror.is_complete() && self.plan().is_some_and(|(_, plan)| !plan.is_empty()) {
            Observed::Change
        } else {
            Observed::Nothing
        }
    }

    fn plan(&self) -> Option<(Vec<ResourceSliceSpec>, Plan)> {
        let desired = self.publisher.desired.borrow();
        let specs = desired.as_ref()?.slices(&self.publisher.driver, &self.publisher.node);
        let current: Vec<&ResourceSlice> = self.mirror.slices().collect();
        let plan = diff(&specs, &current, &self.echoes, self.last_generation);
        Some((specs, plan))
    }

    /// Writes what is missing; on failure says when to go on.
    async fn sync(&mut self) -> Option<Retry> {
        let (specs, plan) = self.plan()?;
        let generation = plan.generation;
        let is_change = !plan.is_empty();
        match self.write(plan).await {
            Ok(()) => {
                self.backoff = fresh_backoff();
                self.last_generation = generation;
                if is_change {
                    let devices: usize = specs.iter().map(|spec| spec.devices.as_ref().map_or(0, Vec::len)).sum();
                    tracing::info!(devices, slices = specs.len(), generation, "published");
                }
                self.tell_dropped(&specs);
                let dropped = self.dropped.clone();
                self.publisher.status.send_replace(PublishStatus::Published {
                    generation,
                    slices: specs.len(),
                    dropped,
                });
                None
            }
            Err(error) => {
                let pause = match &error {
                    CallError::Stale(_) => self.backoff.pause(),
                    CallError::Busy { retry_after, .. } => self.backoff.pause().max(retry_after.unwrap_or_default()),
                    CallError::Invalid(_) | CallError::Refused { .. } => REFUSED,
                };
                Some(Retry { at: Instant::now() + pause, error: error.to_string() })
            }
        }
    }

    async fn write(&mut self, plan: Plan) -> Result<(), CallError> {
        let api = self.publisher.api.clone();
        let writes = Arc::clone(&self.publisher.writes);
        let count = || writes.fetch_add(1, Ordering::Relaxed);
        for seen in plan.deletes {
            count();
            api.delete(&seen).await?;
            self.mirror.remove(seen.uid.as_deref().unwrap_or_default());
        }
        for slice in plan.updates {
            count();
            match api.update(&slice).await {
                Ok(stored) => self.stored(slice.spec, stored),
                Err(CallError::Stale(message)) => {
                    self.read_again(&slice).await?;
                    return Err(CallError::Stale(message));
                }
                Err(error) => return Err(error),
            }
        }
        if !plan.creates.is_empty() {
            let owner = api.owner().await?;
            for (index, spec) in plan.creates {
                count();
                let stored = api.create(index, spec.clone(), owner.clone()).await?;
                self.stored(spec, stored);
            }
        }
        Ok(())
    }

    async fn read_again(&mut self, slice: &ResourceSlice) -> Result<(), CallError> {
        let name = slice.metadata.name.as_deref().unwrap_or_default();
        match self.publisher.api.read(name).await? {
            Some(found) if found.metadata.uid == slice.metadata.uid => self.mirror.put(found),
            _ => self.mirror.remove(&mirror::uid(slice)),
        }
        Ok(())
    }

    /// Takes the answer to a write; where it is less than was sent, remembers that there is no more to be had.
    fn stored(&mut self, sent: ResourceSliceSpec, stored: ResourceSlice) {
        let mut dropped = Dropped::default();
        dropped.compare(&sent, &stored.spec);
        self.echoes.retain(|echo| !is_same_place(&echo.sent, &sent));
        if !dropped.is_empty() {
            self.echoes.push(Echo { sent, stored: stored.spec.clone() });
        }
        self.mirror.put(stored);
    }

    /// Says once what the API server does not store.
    fn tell_dropped(&mut self, specs: &[ResourceSliceSpec]) {
        let names: BTreeSet<Vec<&str>> = specs.iter().map(device_names).collect();
        self.echoes.retain(|echo| names.contains(&device_names(&echo.sent)));
        let mut dropped = Dropped::default();
        for echo in &self.echoes {
            dropped.compare(&echo.sent, &echo.stored);
        }
        let dropped = dropped.fields();
        if dropped != self.dropped {
            for field in &dropped {
                tracing::warn!("the API server does not store {field}");
            }
            self.dropped = dropped;
        }
    }
}

/// What an event means for what is published.
enum Observed {
    /// All slices are known for the first time.
    First,
    /// There is something to write.
    Change,
    Nothing,
}

fn device_names(spec: &ResourceSliceSpec) -> Vec<&str> {
    let devices = spec.devices.iter().flatten().map(|device| device.name.as_str());
    let counters = spec.shared_counters.iter().flatten().map(|set| set.name.as_str());
    devices.chain(counters).collect()
}

fn is_same_place(a: &ResourceSliceSpec, b: &ResourceSliceSpec) -> bool {
    device_names(a) == device_names(b)
}

fn fresh_backoff() -> Backoff {
    Backoff::new(Duration::from_millis(100), Duration::from_secs(30))
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
