//! What the webhook tells of itself: reviews by what they were about and what came of them, and when its certificate ends.
use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::Counter, family::Family, gauge::ConstGauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::{certs, judge::Carrier, tls::Identity};

/// In seconds, up to when a review is given up.
const BUCKETS: [f64; 10] = [1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 0.01, 0.05, 0.25, 1.0, 5.0];

type Labels = [(&'static str, &'static str); 2];

/// All of it; clones share what they count. Nothing is told before the webhook runs.
#[derive(Clone)]
pub struct Metrics(Arc<Counts>);

struct Counts {
    reviews: Family<Labels, Counter>,
    took: Histogram,
    identity: OnceLock<Identity>,
}

/// What came of a review.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nothing is wrong with the object.
    Allowed,
    /// Something is.
    Refused,
    /// It was no review, or was too large.
    Invalid,
    /// It took too long to arrive.
    Late,
}

impl Outcome {
    const ALL: [Self; 4] = [Self::Allowed, Self::Refused, Self::Invalid, Self::Late];

    fn label(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Refused => "refused",
            Self::Invalid => "invalid",
            Self::Late => "late",
        }
    }
}

/// What can't be read is about nothing that is known; nor are other kinds than those with parameters.
fn resource(carrier: Option<Carrier>) -> &'static str {
    carrier.map_or("other", Carrier::resource)
}

impl Default for Metrics {
    fn default() -> Self {
        let reviews = Family::default();
        // So that a rate has a beginning.
        for carrier in [Carrier::Claim, Carrier::Template, Carrier::Class] {
            for outcome in [Outcome::Allowed, Outcome::Refused] {
                touch(&reviews, Some(carrier), outcome);
            }
        }
        for outcome in Outcome::ALL {
            touch(&reviews, None, outcome);
        }
        Self(Arc::new(Counts { reviews, took: Histogram::new(BUCKETS), identity: OnceLock::new() }))
    }
}

fn touch(reviews: &Family<Labels, Counter>, carrier: Option<Carrier>, outcome: Outcome) {
    drop(reviews.get_or_create(&labels(carrier, outcome)));
}

fn labels(carrier: Option<Carrier>, outcome: Outcome) -> Labels {
    [("resource", resource(carrier)), ("outcome", outcome.label())]
}

impl Metrics {
    /// Has a registry tell them, as `webhook_…` behind its own prefix.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(self.clone()));
    }

    /// The webhook runs, and serves by this.
    pub(crate) fn runs_by(&self, identity: Identity) {
        // Of a second webhook in one program the counts are told, and the certificate isn't.
        let _ = self.0.identity.set(identity);
    }

    pub(crate) fn reviewed(&self, carrier: Option<Carrier>, outcome: Outcome, took: Duration) {
        self.0.reviews.get_or_create(&labels(carrier, outcome)).inc();
        self.0.took.observe(took.as_secs_f64());
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Counts { reviews, took, identity } = &*self.0;
        let Some(identity) = identity.get() else { return Ok(()) };
        let help = "Reviews, by the resource of the object and by what came of them";
        reviews.encode(encoder.encode_descriptor("webhook_reviews", help, None, MetricType::Counter)?)?;
        let help = "Time from a review's headers to its answer";
        let seconds = Some(&Unit::Seconds);
        took.encode(encoder.encode_descriptor("webhook_review_duration", help, seconds, MetricType::Histogram)?)?;
        let Some(end) = identity.borrow().as_ref().and_then(|certified| certs::end(certified)) else { return Ok(()) };
        let help = "When the certificate that is served ends, in Unix time; absent before there is one";
        let encoder =
            encoder.encode_descriptor("webhook_certificate_end_timestamp", help, seconds, MetricType::Gauge)?;
        let since = end.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        ConstGauge::new(since.as_secs_f64()).encode(encoder)
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use tokio::sync::watch;

    use super::*;

    fn told(metrics: &Metrics) -> String {
        let (mut registry, mut text) = (Registry::with_prefix("a"), String::new());
        metrics.register(&mut registry);
        encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn nothing_is_told_before_the_webhook_runs_and_no_end_before_there_is_a_certificate() {
        let metrics = Metrics::default();
        assert_eq!(told(&metrics), "# EOF\n");
        metrics.runs_by(watch::channel(None).1);
        let text = told(&metrics);
        assert!(text.contains("a_webhook_reviews_total{resource=\"deviceclasses\",outcome=\"refused\"} 0\n"), "{text}");
        assert!(!text.contains("certificate"), "{text}");
    }

    #[test]
    fn reviews_are_counted_by_resource_and_outcome_whichever_clone_counts() {
        let metrics = Metrics::default();
        metrics.runs_by(watch::channel(None).1);
        let counting = metrics.clone();
        counting.reviewed(Some(Carrier::Claim), Outcome::Allowed, Duration::from_millis(3));
        counting.reviewed(None, Outcome::Invalid, Duration::ZERO);
        let text = told(&metrics);
        for line in [
            "a_webhook_reviews_total{resource=\"resourceclaims\",outcome=\"allowed\"} 1\n",
            "a_webhook_reviews_total{resource=\"other\",outcome=\"invalid\"} 1\n",
            "a_webhook_review_duration_seconds_count 2\n",
            "a_webhook_review_duration_seconds_bucket{le=\"0.01\"} 2\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
    }
}
