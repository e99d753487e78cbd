//! What GPUs are made to measure, and the series of a scrape as a client finds them.
use std::collections::{BTreeMap, BTreeSet};

use aliquot_tests::testbed::{Result, Testbed};
use fake_nvml::{Control, Readings};

/// One line of a scrape.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

/// The series of a scrape in Prometheus's text format.
pub(crate) fn series(text: &str) -> Vec<Series> {
    let body = text.split_once("\r\n\r\n").map_or(text, |(_, body)| body);
    body.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(parse).collect()
}

fn parse(line: &str) -> Series {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?} has no value"));
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let labels = labels.strip_suffix('}').unwrap_or_else(|| panic!("{line:?} has no closing brace"));
    let pairs = labels.split("\",").filter(|pair| !pair.is_empty()).map(|pair| {
        let (label, value) = pair.split_once("=\"").unwrap_or_else(|| panic!("{pair:?} of {line:?} is no label"));
        (label.to_owned(), value.trim_end_matches('"').to_owned())
    });
    Series { name: name.to_owned(), labels: pairs.collect(), value: value.parse().unwrap() }
}

impl Series {
    pub(crate) fn has(&self, labels: &[(&str, &str)]) -> bool {
        labels.iter().all(|(label, value)| self.labels.get(*label).is_some_and(|own| own == value))
    }
}

/// The value of the one series of that name with these labels among its own; none if there is none.
pub(crate) fn value(all: &[Series], name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let mut found = all.iter().filter(|series| series.name == name && series.has(labels));
    let first = found.next();
    assert!(found.next().is_none(), "{name} with {labels:?} is not one series");
    first.map(|series| series.value)
}

/// A scrape.
pub(crate) async fn scrape(testbed: &Testbed) -> Result<Vec<Series>> {
    Ok(series(&testbed.metrics().await?))
}

/// Scrapes until the series are as they should be.
pub(crate) async fn until(testbed: &Testbed, what: &str, holds: impl Fn(&[Series]) -> bool) -> Result<Vec<Series>> {
    let deadline = tokio::time::Instant::now() + aliquot_tests::testbed::PATIENCE;
    loop {
        let all = scrape(testbed).await?;
        if holds(&all) {
            return Ok(all);
        }
        if tokio::time::Instant::now() > deadline {
            return Err(format!("{what}: {all:#?}\n{}", testbed.log()).into());
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// The UUID of a GPU of the node.
pub(crate) fn uuid(testbed: &Testbed, index: usize) -> String {
    testbed.node.profile().gpus[index].uuid.clone()
}

/// Has GPUs measure something.
pub(crate) fn measure(testbed: &Testbed, readings: &[(usize, Readings)]) -> Result<()> {
    let readings = readings.iter().map(|(index, readings)| (uuid(testbed, *index), readings.clone())).collect();
    Ok(testbed.node.control(&Control { readings, ..Control::default() })?)
}

/// The names of labels of all series of each name.
pub(crate) fn label_names(all: &[Series]) -> BTreeMap<String, BTreeSet<String>> {
    let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for series in all {
        names.entry(series.name.clone()).or_default().extend(series.labels.keys().cloned());
    }
    names
}
