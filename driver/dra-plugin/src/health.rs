//! The health stream: what the kubelet writes into a pod's status about its devices (KEP-4680).
use std::{
    pin::Pin,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures::{Stream, StreamExt, stream};
use kubelet_api::health::v1alpha1 as api;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, async_trait};

/// How often everything is said again. The kubelet takes a device that it has not heard of for [`TIMEOUT`] as unknown.
const REPEAT: Duration = Duration::from_secs(10);
/// What the kubelet is told about how long a report holds.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The kubelet cuts longer messages off.
const LONGEST_MESSAGE: usize = 1024;

/// What is known about a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HealthStatus {
    /// Nothing can be said.
    Unknown,
    /// Works.
    Healthy,
    /// Does not work.
    Unhealthy,
}

/// The health of one device.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DeviceHealth {
    /// The pool of the device.
    pub pool: String,
    /// The device's name in its pool.
    pub device: String,
    /// How it is.
    pub status: HealthStatus,
    /// Since when it is so.
    pub since: SystemTime,
    /// Why, for a person; the first 1024 bytes are shown (Kubernetes 1.36 and later).
    pub message: String,
}

/// Serves `v1alpha1.DRAResourceHealth` from a snapshot that somebody else keeps.
#[derive(Clone)]
pub(crate) struct HealthService {
    devices: watch::Receiver<Vec<DeviceHealth>>,
    stop: CancellationToken,
}

impl HealthService {
    /// A service whose streams end when `stop` is cancelled.
    pub(crate) fn new(devices: watch::Receiver<Vec<DeviceHealth>>, stop: CancellationToken) -> Self {
        Self { devices, stop }
    }

    fn reports(&self) -> impl Stream<Item = api::NodeWatchResourcesResponse> + Send + use<> {
        let mut devices = self.devices.clone();
        devices.mark_changed();
        let state = (devices, self.stop.clone(), Instant::now());
        stream::unfold(state, |(mut devices, stop, due)| async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                () = next(&mut devices, due) => {}
            }
            let report = report(&devices.borrow_and_update());
            Some((report, (devices, stop, Instant::now() + REPEAT)))
        })
    }
}

/// Waits for a change or for `due`. Once nobody keeps the snapshot any more it waits for ever, so that the kubelet comes
/// to see the devices as unknown instead of as they once were.
async fn next(devices: &mut watch::Receiver<Vec<DeviceHealth>>, due: Instant) {
    tokio::select! {
        biased;
        changed = devices.changed() => if changed.is_err() { std::future::pending().await },
        () = sleep_until(due) => {}
    }
}

fn report(devices: &[DeviceHealth]) -> api::NodeWatchResourcesResponse {
    let devices = devices.iter().map(|health| api::DeviceHealth {
        device: Some(api::DeviceIdentifier { pool_name: health.pool.clone(), device_name: health.device.clone() }),
        health: match health.status {
            HealthStatus::Unknown => api::HealthStatus::Unknown,
            HealthStatus::Healthy => api::HealthStatus::Healthy,
            HealthStatus::Unhealthy => api::HealthStatus::Unhealthy,
        }
        .into(),
        last_updated_time: unix_seconds(health.since),
        health_check_timeout_seconds: TIMEOUT.as_secs().cast_signed(),
        message: health.message[..health.message.floor_char_boundary(LONGEST_MESSAGE)].to_owned(),
    });
    api::NodeWatchResourcesResponse { devices: devices.collect() }
}

fn unix_seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).ok().and_then(|since| i64::try_from(since.as_secs()).ok()).unwrap_or_default()
}

#[async_trait]
impl api::dra_resource_health_server::DraResourceHealth for HealthService {
    type NodeWatchResourcesStream = Pin<Box<dyn Stream<Item = Result<api::NodeWatchResourcesResponse, Status>> + Send>>;

    async fn node_watch_resources(
        &self,
        _request: Request<api::NodeWatchResourcesRequest>,
    ) -> Result<Response<Self::NodeWatchResourcesStream>, Status> {
        Ok(Response::new(self.reports().map(Ok).boxed()))
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn health(device: &str, status: HealthStatus) -> DeviceHealth {
        DeviceHealth {
            pool: "p".into(),
            device: device.into(),
            status,
            since: UNIX_EPOCH + Duration::from_secs(7),
            message: String::new(),
        }
    }

    fn statuses(report: &api::NodeWatchResourcesResponse) -> Vec<i32> {
        report.devices.iter().map(|device| device.health).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn all_devices_are_told_at_once_again_every_ten_seconds_and_on_change() {
        let (tell, devices) = watch::channel(vec![health("a", HealthStatus::Healthy)]);
        let mut reports = Box::pin(HealthService::new(devices, CancellationToken::new()).reports());
        let begun = Instant::now();
        let first = reports.next().now_or_never().flatten().unwrap();
        assert_eq!(first.devices[0].health_check_timeout_seconds, 30);
        assert_eq!(first.devices[0].last_updated_time, 7);
        for round in 1..4 {
            assert_eq!(statuses(&reports.next().await.unwrap()), [1]);
            assert_eq!(begun.elapsed(), REPEAT * round);
        }
        tell.send_replace(vec![health("a", HealthStatus::Unhealthy), health("b", HealthStatus::Unknown)]);
        assert_eq!(statuses(&reports.next().now_or_never().flatten().unwrap()), [2, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn health_that_nobody_keeps_up_is_not_repeated() {
        let (tell, devices) = watch::channel(vec![health("a", HealthStatus::Healthy)]);
        let mut reports = Box::pin(HealthService::new(devices, CancellationToken::new()).reports());
        reports.next().await.unwrap();
        drop(tell);
        assert!(tokio::time::timeout(Duration::from_hours(1), reports.next()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn the_stream_ends_with_the_plugin() {
        let (_tell, devices) = watch::channel(vec![]);
        let stop = CancellationToken::new();
        let mut reports = Box::pin(HealthService::new(devices, stop.clone()).reports());
        reports.next().await.unwrap();
        stop.cancel();
        assert!(reports.next().await.is_none());
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let mut long = health("a", HealthStatus::Unhealthy);
        long.message = format!("x{}", "é".repeat(1000));
        assert_eq!(report(&[long]).devices[0].message.len(), 1023);
    }
}
