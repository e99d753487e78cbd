//! The driver's end of a publisher: what is to be published, and what became of it.
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::watch;

use super::{
    pool::Pool,
    status::PublishStatus,
    validate::{Faults, validate},
};

/// Hands pools to a [`Publisher`](super::Publisher).
#[derive(Clone, Debug)]
pub struct Handle {
    desired: watch::Sender<Option<Pool>>,
    status: watch::Receiver<PublishStatus>,
    contested: watch::Receiver<()>,
    writes: Arc<AtomicU64>,
}

impl Handle {
    pub(super) fn new(
        desired: watch::Sender<Option<Pool>>,
        status: watch::Receiver<PublishStatus>,
        contested: watch::Receiver<()>,
        writes: Arc<AtomicU64>,
    ) -> Self {
        Self { desired, status, contested, writes }
    }

    /// Publishes `pool` in place of what was published before. The same pool again changes nothing.
    ///
    /// An error means that the API server would refuse it; what was published before stays.
    pub fn publish(&self, pool: Pool) -> Result<(), Faults> {
        validate(&pool)?;
        self.desired.send_if_modified(|desired| {
            let is_new = desired.as_ref() != Some(&pool);
            if is_new {
                *desired = Some(pool);
            }
            is_new
        });
        Ok(())
    }

    /// What became of it.
    pub fn status(&self) -> watch::Receiver<PublishStatus> {
        self.status.clone()
    }

    /// How many writes were tried since the start, of whatever came of them. At rest there are none.
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// The names of the devices that are published, or are to be; none before the first [`publish`](Self::publish).
    pub fn device_names(&self) -> Vec<String> {
        self.desired.borrow().iter().flat_map(|pool| &pool.devices).map(|device| device.name.clone()).collect()
    }

    /// Told when somebody else has changed what is published, a moment (1 s) before it is published anew.
    ///
    /// Another instance of the driver that knows better (a rolling update) would otherwise be contradicted for ever: time
    /// to look again at whatever the pool is made of.
    pub fn contested(&self) -> watch::Receiver<()> {
        self.contested.clone()
    }
}
