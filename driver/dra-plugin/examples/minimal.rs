//! A DRA driver whose devices are made up: two of them, each handed out by a CDI name.
//!
//! `NODE_NAME=node1 cargo run --example minimal`, on a node, with KUBECONFIG.
use std::{
    collections::HashMap,
    error::Error,
    sync::{Mutex, PoisonError},
};

use dra_plugin::{
    AllocatedClaim, Call, ClaimRef, ClaimUid, Driver, DriverName, Failure, Plugin, PreparedDevice,
    slices::{NodeName, Pool, PoolName, Publisher},
};
use k8s_openapi::api::resource::v1::Device;
use tokio_util::sync::CancellationToken;

const NAME: &str = "thing.example.com";

/// What was prepared. A real driver keeps this on the node, so that it outlives the process.
#[derive(Default)]
struct Things {
    prepared: Mutex<HashMap<ClaimUid, Vec<PreparedDevice>>>,
}

impl Things {
    fn prepared<T>(&self, act: impl FnOnce(&mut HashMap<ClaimUid, Vec<PreparedDevice>>) -> T) -> T {
        act(&mut self.prepared.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Driver for Things {
    async fn recall(&self, claim: &ClaimRef) -> Option<Result<Vec<PreparedDevice>, Failure>> {
        self.prepared(|prepared| prepared.get(claim.uid()).cloned().map(Ok))
    }

    async fn prepare(&self, claim: AllocatedClaim, _call: &Call) -> Result<Vec<PreparedDevice>, Failure> {
        let cdi = |device: &str| vec![format!("example.com/thing={device}")];
        let devices: Vec<_> =
            claim.results.iter().map(|result| PreparedDevice::of(result, cdi(&result.device))).collect();
        self.prepared(|prepared| prepared.insert(claim.claim.uid().clone(), devices.clone()));
        Ok(devices)
    }

    async fn unprepare(&self, claim: &ClaimRef) -> Result<(), Failure> {
        self.prepared(|prepared| prepared.remove(claim.uid()));
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().init();
    let node = NodeName::new(std::env::var("NODE_NAME")?)?;
    let client = kube::Client::try_default().await?;
    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        told.cancel();
    });

    let (publisher, publishing) = Publisher::new(client.clone(), DriverName::new(NAME)?, node.clone());
    let publisher = tokio::spawn(publisher.run(stop.clone()));
    let device = |name: &str| Device { name: name.to_owned(), ..Device::default() };
    let devices = vec![device("thing-0"), device("thing-1")];
    publishing.publish(Pool { devices, ..Pool::empty(PoolName::new(format!("{NAME}/{node}"))?) })?;

    Plugin::builder(NAME)?.claims(client).build(Things::default())?.run(stop).await?;
    publisher.await?;
    Ok(())
}
