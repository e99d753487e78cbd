//! Which GPUs are too ill to be given to anybody, over restarts of the driver.
//!
//! ```text
//! NVML's events ─┐
//! readings ──────┼─> Ward (pure) ──> watch: taints (marks, pure), the kubelet's health, prepares, Events, metrics
//! resets ────────┘      └──> a file below the run root, which ends with the boot as an illness does
//! ```
mod chart;
mod gate;
mod marks;
mod ward;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use aliquot_model::{GpuUuid, Inventory, Xid};
use aliquot_nvml::{EventKind, GpuEvent};
pub(crate) use chart::Chart;
pub(crate) use gate::{Gate, Verdict};
pub(crate) use marks::{Marker, ill};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use ward::Seconds;
pub(crate) use ward::{Cause, Ward};

use crate::{discovery::View, notices::Notices};

/// What is known of the GPUs' health.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Health {
    /// Those that are ill.
    pub(crate) ward: Ward,
    /// How often each Xid was heard since the start.
    pub(crate) heard: BTreeMap<(GpuUuid, Xid), u64>,
}

impl Health {
    /// As it was when the driver ended, so that it counts before anything is offered.
    pub(crate) fn kept(chart: &Chart) -> Self {
        Self { ward: chart.read(), ..Self::default() }
    }
}

/// Waits until other GPUs are ill, or for other reasons, than these. An error that harms no GPU wakes nobody.
pub(crate) async fn changed(health: &mut watch::Receiver<Health>, from: &Ward) -> Result<(), watch::error::RecvError> {
    health.wait_for(|now| now.ward != *from).await.map(drop)
}

/// What came of the kernel's reset of a GPU that a virtual machine had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reset {
    /// Which one; by its place where only sysfs knows it.
    pub(crate) gpu: GpuUuid,
    /// Whether nothing of the machine is left on it.
    pub(crate) worked: bool,
}

/// What there is to listen to.
pub(crate) struct Sources {
    pub(crate) view: watch::Receiver<View>,
    /// When the last reading that came to an end was begun; it is never later than what is seen.
    pub(crate) read: watch::Receiver<Instant>,
    pub(crate) events: mpsc::UnboundedReceiver<GpuEvent>,
    pub(crate) resets: mpsc::UnboundedReceiver<Reset>,
    pub(crate) notices: Notices,
}

/// How it is judged and told.
pub(crate) struct Settings {
    /// How long after an error its GPU's recovery action is believed to have been set: the two come to NVML by different
    /// ways.
    pub(crate) settle: Duration,
    pub(crate) marker: Marker,
}

/// Follows events and readings until `stop`.
pub(crate) async fn follow(
    settings: Settings,
    chart: Chart,
    sources: Sources,
    healths: watch::Sender<Health>,
    stop: CancellationToken,
) {
    let Settings { settle, marker } = settings;
    let Sources { mut view, mut read, mut events, mut resets, notices } = sources;
    loop {
        let (mut event, mut reset) = (None, None);
        tokio::select! {
            () = stop.cancelled() => return,
            Some(heard) = events.recv() => event = Some(heard),
            Some(done) = resets.recv() => reset = Some(done),
            changed = view.changed() => if changed.is_err() { return },
            Ok(()) = read.changed() => {}
        }
        let before = healths.borrow().clone();
        let mut after = before.clone();
        let now = since_boot();
        if let Some(event) = &event {
            after.ward = after.ward.hear(event, now);
            if let (Some(gpu), EventKind::Xid(xid)) = (&event.gpu, event.kind) {
                tracing::warn!(uuid = %gpu, %xid, advice = xid.remedy().advice(), "a GPU reported an error");
                *after.heard.entry((gpu.clone(), xid)).or_default() += 1;
            }
        }
        if let Some(reset) = &reset {
            after.ward = after.ward.reset(reset, now);
        }
        // First when, then what: it may be newer than that, and is never older.
        let age = read.borrow_and_update().elapsed();
        let seen = view.borrow_and_update().clone();
        if let Some(inventory) = seen.inventory() {
            after.ward = after.ward.read(inventory, now.saturating_sub(age.as_secs() + 1), settle.as_secs());
        }
        if after.ward != before.ward {
            chart.write(&after.ward);
            tell(&before.ward, &after.ward, seen.inventory(), &marker, &notices);
        }
        healths.send_if_modified(|health| {
            let changed = *health != after;
            *health = after;
            changed
        });
    }
}

/// The chart ends with the boot, and so does this clock.
fn since_boot() -> Seconds {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Seconds::try_from(now.tv_sec).unwrap_or_default()
}

/// Tells the node's administrators who fell ill and who is well again.
fn tell(before: &Ward, after: &Ward, inventory: Option<&Inventory>, marker: &Marker, notices: &Notices) {
    let place = |gpu: &GpuUuid| {
        let known = inventory.and_then(|inventory| inventory.place(gpu));
        known.map_or_else(String::new, |pci| format!(" at {pci}"))
    };
    for (gpu, illness) in after.iter() {
        let cause = &illness.cause;
        if before.illness(gpu).is_none_or(|known| known.cause != *cause) {
            let why = cause.explained();
            tracing::error!(uuid = %gpu, why, "a GPU is ill and is not given to new claims");
            let holders =
                if marker.evicts(cause) { "pods that hold it are evicted" } else { "pods that hold it go on" };
            let (place, key) = (place(gpu), marker.key());
            let note = format!("GPU {gpu}{place} is not given to new claims (taint {key}); {holders}: {why}");
            notices.warn_node("GPUUnhealthy", note);
        }
    }
    for (gpu, _) in before.iter().filter(|(gpu, _)| after.illness(gpu).is_none()) {
        tracing::info!(uuid = %gpu, "a GPU is well again");
        notices.tell_node("GPUHealthy", format!("GPU {gpu}{} is well again, and is given to claims", place(gpu)));
    }
}
