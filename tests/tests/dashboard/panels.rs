//! What the dashboard's file says, and what must hold of it without anyone who draws it.
use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

const FILE: &str = include_str!("../../../deploy/components/dashboard/aliquot.json");
/// Where every metric stands with what it is.
const PAGES: [&str; 2] = [include_str!("../../../docs/metrics.md"), include_str!("../../../docs/controller.md")];
/// Labels of OpenTelemetry's that begin as its metrics do.
const LABELS: [&str; 2] = ["hw_gpu_task", "hw_sensor_location"];

/// One query, with the title of its panel.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    pub(crate) panel: String,
    pub(crate) expression: String,
}

/// The dashboard.
pub(crate) fn dashboard() -> Value {
    serde_json::from_str(FILE).unwrap()
}

/// Everything that draws, without the rows that group it.
fn panels(dashboard: &Value) -> Vec<&Value> {
    dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row").collect()
}

/// The queries of all panels, as Grafana would send them.
pub(crate) fn queries() -> Vec<Query> {
    let dashboard = dashboard();
    let targets = panels(&dashboard).into_iter().flat_map(|panel| {
        let title = panel["title"].as_str().unwrap().to_owned();
        panel["targets"].as_array().unwrap().iter().map(move |target| (title.clone(), target))
    });
    targets.map(|(panel, target)| Query { panel, expression: substituted(target["expr"].as_str().unwrap()) }).collect()
}

/// Metric and label of each variable that is filled by a query.
pub(crate) fn variables() -> BTreeMap<String, String> {
    let dashboard = dashboard();
    let all = dashboard["templating"]["list"].as_array().unwrap().iter();
    let queried = all.filter_map(|variable| variable["query"]["query"].as_str());
    let parts = queried.map(|query| {
        let inside = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')')).unwrap();
        let (metric, label) = inside.split_once(", ").unwrap();
        (label.to_owned(), metric.to_owned())
    });
    parts.collect()
}

/// With everything chosen, over a window in which there are several scrapes.
fn substituted(expression: &str) -> String {
    let all = [("$__rate_interval", "20s"), ("$node", ".*"), ("$namespace", ".*")];
    let text = all.into_iter().fold(expression.to_owned(), |text, (name, value)| text.replace(name, value));
    assert!(!text.contains('$'), "{text} has a variable that this suite doesn't know");
    text
}

/// The metrics that an expression names.
pub(crate) fn metrics(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let named = words.filter(|word| word.starts_with("aliquot_") || word.starts_with("hw_"));
    named.filter(|word| !LABELS.contains(word)).map(ToOwned::to_owned).collect()
}

#[test]
fn every_panel_has_a_name_of_its_own_a_description_and_a_place_of_its_own() {
    let dashboard = dashboard();
    let all = panels(&dashboard);
    let titles: BTreeSet<&str> = all.iter().map(|panel| panel["title"].as_str().unwrap()).collect();
    assert_eq!(titles.len(), all.len());
    let mut taken = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let place = |field: &str| panel["gridPos"][field].as_u64().unwrap();
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(x < 24 && taken.insert((x, y)), "{} is over another", panel["title"]);
            }
        }
    }
    let ids: BTreeSet<u64> =
        dashboard["panels"].as_array().unwrap().iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), dashboard["panels"].as_array().unwrap().len());
    assert!(all.iter().all(|panel| panel["description"].as_str().is_some_and(|text| !text.is_empty())));
}

#[test]
fn every_metric_that_is_shown_stands_on_a_page() {
    for Query { panel, expression } in queries() {
        let named = metrics(&expression);
        assert!(!named.is_empty(), "{panel}: {expression}");
        for metric in named {
            let family = metric.strip_suffix("_bucket").unwrap_or(&metric);
            assert!(PAGES.iter().any(|page| page.contains(&format!("`{family}`"))), "{panel}: {family}");
        }
    }
}
