//! What the kubelet asks for: how long it takes, how much is under way, and why claims fail.
use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use dra_plugin::{Observer, Operation, Reason};
use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, histogram::Histogram},
    registry::Unit,
};

use super::{gpus::large, series::Family};

/// In seconds: from what a repeated call takes to when the kubelet gives up.
const BUCKETS: [f64; 18] =
    [1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 45.0];

const IN_FLIGHT: Family =
    Family::gauge("aliquot_dra_requests_in_flight", "Calls of the kubelet that are not answered yet");
const ERRORS: Family = Family::counter("aliquot_dra_errors", "Claims for which the kubelet was given an error, by why");

/// Counts without allocating: two additions and a search among the buckets for each call.
#[derive(Debug)]
pub(crate) struct Calls {
    prepare: Method,
    unprepare: Method,
}

#[derive(Debug)]
struct Method {
    name: &'static str,
    took: Histogram,
    in_flight: AtomicU64,
    errors: [AtomicU64; Reason::ALL.len()],
}

impl Default for Calls {
    fn default() -> Self {
        Self { prepare: Method::new("prepare"), unprepare: Method::new("unprepare") }
    }
}

impl Method {
    fn new(name: &'static str) -> Self {
        let errors = Reason::ALL.map(|_| AtomicU64::new(0));
        Self { name, took: Histogram::new(BUCKETS), in_flight: AtomicU64::new(0), errors }
    }
}

impl Observer for Calls {
    fn begun(&self, operation: Operation) {
        self.of(operation).in_flight.fetch_add(1, Ordering::Relaxed);
    }

    fn ended(&self, operation: Operation, took: Duration) {
        let method = self.of(operation);
        method.in_flight.fetch_sub(1, Ordering::Relaxed);
        method.took.observe(took.as_secs_f64());
    }

    fn failed(&self, operation: Operation, reason: Reason) {
        let place = Reason::ALL.iter().position(|known| *known == reason);
        if let Some(count) = place.and_then(|place| self.of(operation).errors.get(place)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Calls {
    fn of(&self, operation: Operation) -> &Method {
        match operation {
            Operation::Prepare => &self.prepare,
            Operation::Unprepare => &self.unprepare,
        }
    }

    /// Writes all series; those that are zero as well, so that a rate has a beginning.
    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let methods = [&self.prepare, &self.unprepare];
        let mut family = encoder.encode_descriptor(
            "aliquot_dra_request_duration",
            "Time from a call of the kubelet, with one claim or several, to its answer",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for method in methods {
            method.took.encode(family.encode_family(&[("method", method.name)])?)?;
        }
        let in_flight = |method: &Method| large(method.in_flight.load(Ordering::Relaxed));
        IN_FLIGHT.encode(encoder, methods.map(|method| (vec![("method", method.name)], in_flight(method))))?;
        let errors = methods.into_iter().flat_map(|method| {
            Reason::ALL.iter().zip(&method.errors).map(|(reason, count)| {
                (vec![("method", method.name), ("reason", reason.as_str())], large(count.load(Ordering::Relaxed)))
            })
        });
        ERRORS.encode(encoder, errors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_begun_and_not_ended_is_in_flight_and_each_reason_is_counted_apart() {
        let calls = Calls::default();
        calls.begun(Operation::Prepare);
        calls.begun(Operation::Prepare);
        calls.ended(Operation::Prepare, Duration::from_millis(3));
        calls.failed(Operation::Prepare, Reason::Late);
        assert_eq!(calls.prepare.in_flight.load(Ordering::Relaxed), 1);
        let errors: Vec<u64> = calls.prepare.errors.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        assert_eq!((errors.iter().sum::<u64>(), errors[4]), (1, 1));
        assert_eq!(calls.unprepare.in_flight.load(Ordering::Relaxed), 0);
    }
}
