//! The dashboard's queries, answered by a real Prometheus that scrapes as the `PodMonitor`s say.
use std::time::{Duration, Instant};

use aliquot_tests::{
    prometheus::{Job, Prometheus},
    skip,
    testbed::{NODE, Result, documents},
};
use serde_json::Value;

use super::{
    panels::{Query, metrics, queries, variables},
    scene::Scene,
};

const MONITORS: &str = include_str!("../../../deploy/components/monitoring/podmonitors.yaml");
/// Until there are enough scrapes for rates, on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);
/// Of calls that nobody makes here there is no time that they took.
const UNUSED: &str = "aliquot_controller_webhook_review_duration_seconds_bucket";

/// Whether a `PodMonitor` has labels of the metrics win.
fn honors_labels(name: &str) -> Result<bool> {
    let monitors = documents::<Value>(MONITORS)?;
    let monitor = monitors.iter().find(|monitor| monitor["metadata"]["name"] == name).ok_or("no such PodMonitor")?;
    Ok(monitor["spec"]["podMetricsEndpoints"][0]["honorLabels"] == true)
}

async fn prometheus(scene: &Scene) -> Result<Option<Prometheus>> {
    let Some(program) = skip::prometheus() else { return Ok(None) };
    let driver = Job {
        name: "aliquot/aliquot-driver",
        target: scene.testbed.metrics_address()?,
        labels: &[("node", NODE)],
        honor_labels: honors_labels("aliquot-driver")?,
    };
    let controller = Job {
        name: "aliquot/aliquot-controller",
        target: scene.controller.address().ok_or("the controller serves no metrics")?,
        labels: &[("namespace", "aliquot"), ("pod", "aliquot-controller-0"), ("container", "controller")],
        honor_labels: honors_labels("aliquot-controller")?,
    };
    Ok(Some(Prometheus::start(program, &[driver, controller]).await?))
}

/// What keeps a query from being one that shows something.
async fn fault(prometheus: &Prometheus, Query { expression, .. }: &Query) -> Result<Option<String>> {
    for metric in metrics(expression) {
        if prometheus.query(&metric).await?.is_empty() {
            return Ok(Some(format!("there is no {metric}")));
        }
    }
    let found = prometheus.query(expression).await?;
    let told = found.iter().any(|series| series.value().is_finite() || expression.contains(UNUSED));
    Ok((!told).then(|| format!("it returns {found:?}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_panel_shows_series_of_a_node_that_works_and_each_variable_has_values() -> Result<()> {
    let scene = Scene::start().await?;
    let Some(prometheus) = prometheus(&scene).await? else { return Ok(()) };
    let deadline = Instant::now() + PATIENCE;
    for query in queries() {
        while let Some(fault) = fault(&prometheus, &query).await? {
            let Query { panel, expression } = &query;
            assert!(Instant::now() < deadline, "{panel}: {expression}: {fault}\n{}", prometheus.log());
            scene.work().await?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    for (label, metric) in variables() {
        let found = prometheus.query(&format!("count by ({label}) ({metric})")).await?;
        assert!(found.iter().any(|series| series.metric[&label].is_string()), "{metric} has no {label}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn in_what_prometheus_stores_namespace_and_pod_are_those_of_the_holder() -> Result<()> {
    let scene = Scene::start().await?;
    let Some(prometheus) = prometheus(&scene).await? else { return Ok(()) };
    let deadline = Instant::now() + PATIENCE;
    let joined = "hw_power_watts * on (uuid) group_right () aliquot_claim_device_info";
    loop {
        let found = prometheus.query(joined).await?;
        if let [one] = found.as_slice() {
            assert_eq!((&one.metric["namespace"], &one.metric["pod"]), (&"default".into(), &"trainer".into()));
            return Ok(());
        }
        assert!(Instant::now() < deadline, "{found:?}\n{}", prometheus.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
