//! Families of series whose labels and values are made for one scrape.
use std::fmt;

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelValue, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};

/// What a family is: its name without unit and suffix, and the rest of what is said of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    /// In the plural, as it ends the name.
    pub(super) unit: Option<&'static str>,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Gauge,
    Counter,
}

/// Labels of one series.
pub(super) type Labels<'a> = Vec<(&'static str, &'a str)>;

impl Family {
    pub(super) const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, unit: None, kind: Kind::Gauge }
    }

    pub(super) const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, help, unit: None, kind: Kind::Counter }
    }

    pub(super) const fn of(self, unit: &'static str) -> Self {
        Self { unit: Some(unit), ..self }
    }

    /// Writes the family with all its series, or without any.
    pub(super) fn encode<L: EncodeLabelValue, V: EncodeGaugeValue + EncodeCounterValue>(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        series: impl IntoIterator<Item = (Vec<(&'static str, L)>, V)>,
    ) -> fmt::Result {
        let unit = self.unit.map(|unit| Unit::Other(unit.to_owned()));
        let kind = match self.kind {
            Kind::Gauge => MetricType::Gauge,
            Kind::Counter => MetricType::Counter,
        };
        let mut family = encoder.encode_descriptor(self.name, self.help, unit.as_ref(), kind)?;
        for (labels, value) in series {
            if labels.is_empty() {
                // Without labels there are no braces.
                return match self.kind {
                    Kind::Gauge => ConstGauge::new(value).encode(family),
                    Kind::Counter => ConstCounter::new(value).encode(family),
                };
            }
            let labelled = family.encode_family(&labels)?;
            match self.kind {
                Kind::Gauge => ConstGauge::new(value).encode(labelled)?,
                Kind::Counter => ConstCounter::new(value).encode(labelled)?,
            }
        }
        Ok(())
    }

    /// The same, but a family without series is left out: its question has no answer here.
    pub(super) fn encode_found<L: EncodeLabelValue, V: EncodeGaugeValue + EncodeCounterValue>(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        series: impl IntoIterator<Item = (Vec<(&'static str, L)>, V)>,
    ) -> fmt::Result {
        let mut series = series.into_iter().peekable();
        if series.peek().is_none() { Ok(()) } else { self.encode(encoder, series) }
    }
}

/// The only series of a family, without labels.
pub(super) fn alone<V>(value: V) -> [(Labels<'static>, V); 1] {
    [(vec![], value)]
}
