//! What the controller counts, for Prometheus.
use std::sync::atomic::AtomicU64;

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

type Label = [(&'static str, &'static str); 1];

/// All of it; clones share what they count.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    pub(crate) leader: Gauge,
    watched: Family<Label, Gauge>,
    pub(crate) stale_slices: Gauge,
    deleted: Family<Label, Counter>,
    stuck: Family<Label, Gauge>,
    pub(crate) released: Counter,
    failed: Family<Label, Counter>,
    pub(crate) first_look: Gauge<f64, AtomicU64>,
}

impl Metrics {
    pub(crate) fn watched(&self, resource: &'static str) -> Gauge {
        self.watched.get_or_create_owned(&[("resource", resource)])
    }

    pub(crate) fn deleted(&self, reason: &'static str) -> Counter {
        self.deleted.get_or_create_owned(&[("reason", reason)])
    }

    pub(crate) fn stuck(&self, state: &'static str) -> Gauge {
        self.stuck.get_or_create_owned(&[("state", state)])
    }

    pub(crate) fn failed(&self, call: &'static str) -> Counter {
        self.failed.get_or_create_owned(&[("call", call)])
    }

    /// Where all of it can be read, and what the webhook counts.
    pub(crate) fn registry(&self, webhook: &aliquot_admission::Metrics) -> Registry {
        let mut registry = Registry::with_prefix("aliquot_controller");
        webhook.register(&mut registry);
        let Self { leader, watched, stale_slices, deleted, stuck, released, failed, first_look } = self.clone();
        registry.register("leader", "1 if this replica holds the Lease and acts", leader);
        registry.register("watched", "Objects that are kept in memory, by resource", watched);
        registry.register(
            "stale_slices",
            "ResourceSlices whose Node seems gone or made anew, in their grace or about to be deleted",
            stale_slices,
        );
        registry.register("slices_deleted", "ResourceSlices that were deleted, by what became of their Node", deleted);
        registry.register("stuck_claims", "Claims that are stuck, as live looks confirmed, by what keeps them", stuck);
        registry.register("claims_released", "Claims from which reservations for gone pods were removed", released);
        registry.register(
            "api_failures",
            "Requests that the API server refused or didn't answer, by what was asked",
            failed,
        );
        registry.register(
            "first_look_seconds",
            "From the start until everything had been listed and judged once",
            first_look,
        );
        registry
    }
}
