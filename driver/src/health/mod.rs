//! Which GPUs are too ill to be given to anybody, over restarts of the driver.
//!
//! ```text
//! NVML's events ─┐
//!                ├─> Ward (pure) ──> watch: taints, the kubelet's health, Events, metrics
//! readings ──────┘      └──> a file below the run root, which ends with the boot as an illness does
//! ```
mod chart;
mod ward;

use std::collections::BTreeMap;

use aliquot_model::{GpuUuid, Xid};
use aliquot_nvml::{EventKind, GpuEvent};
pub(crate) use chart::Chart;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use ward::Seconds;
pub(crate) use ward::Ward;

use crate::{discovery::View, notices::Notices};

/// What is known of the GPUs' health.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Health {
    /// Those that are ill.
    pub(crate) ward: Ward,
    /// How often each Xid was heard since the start.
    pub(crate) heard: BTreeMap<(GpuUuid, Xid), u64>,
}

/// What there is to listen to.
pub(crate) struct Sources {
    pub(crate) view: watch::Receiver<View>,
    pub(crate) events: mpsc::UnboundedReceiver<GpuEvent>,
    pub(crate) notices: Notices,
}

/// Follows events and readings until `stop`.
pub(crate) async fn follow(chart: Chart, sources: Sources, healths: watch::Sender<Health>, stop: CancellationToken) {
    let Sources { mut view, mut events, notices } = sources;
    // It was told of before the restart.
    let kept = chart.read();
    healths.send_if_modified(|health| std::mem::replace(&mut health.ward, kept.clone()) != kept);
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => return,
            Some(event) = events.recv() => Some(event),
            changed = view.changed() => match changed {
                Ok(()) => None,
                Err(_) => return,
            },
        };
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
        if let Some(inventory) = view.borrow_and_update().inventory() {
            after.ward = after.ward.read(inventory, now);
        }
        if after.ward != before.ward {
            chart.write(&after.ward);
            tell(&before.ward, &after.ward, &notices);
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
fn tell(before: &Ward, after: &Ward, notices: &Notices) {
    for (gpu, illness) in after.iter() {
        if before.illness(gpu).is_none_or(|known| known.cause != illness.cause) {
            tracing::error!(uuid = %gpu, %illness, "a GPU is ill and is not offered");
            notices.warn_node("GPUUnhealthy", format!("GPU {gpu} is not given to new claims: {illness}"));
        }
    }
    for (gpu, _) in before.iter().filter(|(gpu, _)| after.illness(gpu).is_none()) {
        tracing::info!(uuid = %gpu, "a GPU is well again");
        notices.tell_node("GPUHealthy", format!("GPU {gpu} is well again, and is given to claims"));
    }
}
