//! What drivers report about their devices, as the kubelet keeps it: stamped on receipt, unknown once stale (KEP-4680).
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use kubelet_api::health::v1alpha1::{DeviceHealth, HealthStatus, NodeWatchResourcesRequest};
use tokio::time::{Instant, sleep};

use crate::driver::{Driver, go_text};

/// The timeout of a device whose report names none.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// The pause before a stream is opened again; a kubelet of 1.36 keeps asking, whatever the answer.
const REOPEN: Duration = Duration::from_secs(5);
/// The longest message kept, in bytes.
const MESSAGE: usize = 1024;

/// A device's health as the pod status would show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Unknown too if nothing was reported in time.
    pub status: HealthStatus,
    /// For people; empty if unknown or none was given.
    pub message: String,
}

impl Default for Health {
    fn default() -> Self {
        Self { status: HealthStatus::Unknown, message: String::new() }
    }
}

#[derive(Debug)]
struct Report {
    health: Health,
    received: Instant,
    timeout: Duration,
}

type Devices = BTreeMap<(String, String), Report>;

/// The latest reports of all drivers.
#[derive(Debug, Clone, Default)]
pub(crate) struct HealthCache(Arc<Mutex<BTreeMap<String, Devices>>>);

impl HealthCache {
    pub(crate) fn of(&self, driver: &str, pool: &str, device: &str) -> Health {
        let drivers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let report = drivers.get(driver).and_then(|devices| devices.get(&(pool.to_owned(), device.to_owned())));
        match report {
            Some(report) if report.received.elapsed() <= report.timeout => report.health.clone(),
            _ => Health::default(),
        }
    }

    /// Devices left out keep their last report until it is stale.
    fn record(&self, driver: &str, reported: Vec<DeviceHealth>) {
        let mut drivers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let devices = drivers.entry(driver.to_owned()).or_default();
        for device in reported {
            let status = device.health();
            let Some(id) = device.device else { continue };
            let timeout = match u64::try_from(device.health_check_timeout_seconds) {
                Ok(seconds @ 1..) => Duration::from_secs(seconds),
                _ => DEFAULT_TIMEOUT,
            };
            let health = Health { status, message: shortened(device.message) };
            devices.insert((id.pool_name, id.device_name), Report { health, received: Instant::now(), timeout });
        }
    }

    pub(crate) fn clear(&self, driver: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(driver);
    }
}

fn shortened(mut message: String) -> String {
    if message.len() > MESSAGE {
        message.truncate(message.floor_char_boundary(MESSAGE - 3));
        message.push_str("...");
    }
    message
}

/// Follows one instance's stream for as long as the future is polled.
pub(crate) async fn follow(driver: Driver, cache: HealthCache) {
    loop {
        match driver.health().node_watch_resources(NodeWatchResourcesRequest {}).await {
            Ok(stream) => {
                let mut stream = stream.into_inner();
                while let Ok(Some(snapshot)) = stream.message().await {
                    cache.record(&driver.name, snapshot.devices);
                }
                cache.clear(&driver.name);
            }
            Err(status) => tracing::debug!(driver = driver.name, error = go_text(&status), "no health stream"),
        }
        sleep(REOPEN).await;
    }
}

#[cfg(test)]
mod tests {
    use kubelet_api::health::v1alpha1::DeviceIdentifier;

    use super::*;

    fn report(device: &str, seconds: i64) -> DeviceHealth {
        DeviceHealth {
            device: Some(DeviceIdentifier { pool_name: "pool".to_owned(), device_name: device.to_owned() }),
            health: HealthStatus::Healthy.into(),
            health_check_timeout_seconds: seconds,
            ..DeviceHealth::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_report_goes_unknown_when_its_timeout_passes() {
        let cache = HealthCache::default();
        cache.record("d", vec![report("short", 10), report("default", 0)]);
        let status = |device| cache.of("d", "pool", device).status;
        assert_eq!(status("short"), HealthStatus::Healthy);
        tokio::time::advance(Duration::from_secs(11)).await;
        assert_eq!(status("short"), HealthStatus::Unknown);
        assert_eq!(status("default"), HealthStatus::Healthy);
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!(status("default"), HealthStatus::Unknown);
    }

    #[tokio::test(start_paused = true)]
    async fn a_device_left_out_of_a_snapshot_keeps_its_report() {
        let cache = HealthCache::default();
        cache.record("d", vec![report("a", 10), report("b", 10)]);
        cache.record("d", vec![report("b", 10)]);
        assert_eq!(cache.of("d", "pool", "a").status, HealthStatus::Healthy);
    }

    #[test]
    fn a_long_message_is_cut_at_1024_bytes() {
        assert_eq!(shortened("x".repeat(2000)).len(), 1024);
        assert_eq!(shortened("x".repeat(1024)).len(), 1024);
        assert!(shortened("ü".repeat(1000)).ends_with("..."));
    }
}
