//! The watches that keep the index: paged lists first, then changes.
use std::{
    fmt::Debug,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::{StreamExt as _, future::BoxFuture};
use kube::{
    Api, Client, Resource,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use prometheus_client::metrics::gauge::Gauge;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use watch_patience::Patience;

use crate::{
    index::{self, Change, Index, Table},
    metrics::Metrics,
    objects,
};

/// The index as the watches write it and the sweep reads it. It is never locked while something is waited for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shared {
    index: Arc<Mutex<Index>>,
    changed: Arc<Notify>,
}

impl Shared {
    pub(crate) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a change that nobody has waited for yet.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// One watch for each kind of objects; they end with their task.
pub(crate) fn all(
    client: &Client,
    driver: &str,
    page_size: u32,
    shared: &Shared,
    metrics: &Metrics,
) -> Vec<BoxFuture<'static, ()>> {
    let config = watcher::Config::default().page_size(page_size);
    let of_driver = config.clone().fields(&format!("spec.driver={driver}"));
    let driver = driver.to_owned();
    let nodes = Watch { api: Api::all(client.clone()), config: config.clone(), table: |index| &mut index.nodes };
    let pods = Watch { api: Api::all(client.clone()), config: config.clone(), table: |index| &mut index.pods };
    let slices = Watch { api: Api::all(client.clone()), config: of_driver, table: |index| &mut index.slices };
    let claims = Watch { api: Api::all(client.clone()), config, table: |index| &mut index.claims };
    vec![
        Box::pin(nodes.run(shared.clone(), metrics.watched("nodes"), |node: &objects::Node| {
            (index::name(&node.metadata), Some(index::uid(&node.metadata)))
        })),
        Box::pin(
            pods.run(shared.clone(), metrics.watched("pods"), |pod: &objects::Pod| {
                (index::uid(&pod.metadata), Some(()))
            }),
        ),
        Box::pin(slices.run(shared.clone(), metrics.watched("resourceslices"), |slice: &objects::Slice| {
            (index::name(&slice.metadata), Some(index::Slice::new(slice)))
        })),
        Box::pin(claims.run(shared.clone(), metrics.watched("resourceclaims"), move |claim: &objects::Claim| {
            (index::uid(&claim.metadata), index::Claim::new(claim, &driver))
        })),
    ]
}

/// What one kind's watch needs.
struct Watch<T, K, V> {
    api: Api<T>,
    config: watcher::Config,
    table: fn(&mut Index) -> &mut Table<K, V>,
}

impl<T, K, V> Watch<T, K, V>
where
    T: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    K: Eq + Hash + 'static,
    V: 'static,
{
    async fn run(self, shared: Shared, count: Gauge, entry: impl Fn(&T) -> (K, Option<V>)) {
        let mut events = watcher(self.api, self.config).backoff(Patience::default()).boxed();
        while let Some(event) = events.next().await {
            let change = match event {
                Ok(Event::Init) => Change::Begin,
                Ok(Event::InitApply(object)) => {
                    let (key, value) = entry(&object);
                    Change::Listed(key, value)
                }
                Ok(Event::InitDone) => Change::End,
                Ok(Event::Apply(object)) => {
                    let (key, value) = entry(&object);
                    Change::Put(key, value)
                }
                Ok(Event::Delete(object)) => Change::Gone(entry(&object).0),
                Err(error) => {
                    // What is known stays; nothing is done that a live look doesn't confirm.
                    tracing::warn!(error = crate::report(&error), "a watch broke off, and is begun again");
                    continue;
                }
            };
            let mut index = shared.index();
            let table = (self.table)(&mut index);
            table.apply(change);
            count.set(i64::try_from(table.len()).unwrap_or(i64::MAX));
            let told = table.is_complete();
            drop(index);
            if told {
                shared.changed.notify_one();
            }
        }
    }
}
