//! Who finds and reaches the pods: Services, `PodMonitor`s and network policies name ports and pods that are there.
use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::with;

/// What every object of ours has.
const PROGRAMS: [&str; 2] = ["driver", "controller"];

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

/// The pods' templates that a selector by labels is about.
fn selected<'a>(objects: &'a [Value], labels: &Value) -> Vec<&'a Value> {
    let wanted = labels.as_object().unwrap();
    assert!(!wanted.is_empty(), "it selects everything");
    let templates = objects.iter().filter_map(|object| object.pointer("/spec/template"));
    let has =
        |template: &&Value| wanted.iter().all(|(name, value)| template["metadata"]["labels"].get(name) == Some(value));
    templates.filter(has).collect()
}

/// The number of a port of a pod, by its name.
fn port(template: &Value, name: &Value) -> u64 {
    let containers = template["spec"]["containers"].as_array().unwrap();
    let mut ports = containers.iter().flat_map(|container| container["ports"].as_array().into_iter().flatten());
    let found = ports.find(|port| port["name"] == *name).unwrap_or_else(|| panic!("no port {name}"));
    found["containerPort"].as_u64().unwrap()
}

/// Which program's pods these are; they are those of one.
fn program(templates: &[&Value]) -> String {
    let [template] = templates else { panic!("{templates:?} are not the pods of one program") };
    template["metadata"]["labels"]["app.kubernetes.io/component"].as_str().unwrap().to_owned()
}

fn both() -> BTreeSet<String> {
    PROGRAMS.map(ToOwned::to_owned).into()
}

#[test]
fn a_service_without_an_address_and_a_pod_monitor_find_the_metrics_of_each_program() {
    let objects = with("monitoring");
    let headless = of_kind(&objects, "Service").into_iter().filter(|service| service["spec"]["clusterIP"] == "None");
    let mut served = BTreeSet::new();
    for service in headless {
        let pods = selected(&objects, &service["spec"]["selector"]);
        let [at] = service["spec"]["ports"].as_array().unwrap().as_slice() else { panic!("{service}") };
        assert_eq!(port(pods[0], &at["targetPort"]), at["port"].as_u64().unwrap(), "{service}");
        served.insert(program(&pods));
    }
    assert_eq!(served, both());
    let mut monitored = BTreeSet::new();
    for monitor in of_kind(&objects, "PodMonitor") {
        let pods = selected(&objects, &monitor["spec"]["selector"]["matchLabels"]);
        let [endpoint] = monitor["spec"]["podMetricsEndpoints"].as_array().unwrap().as_slice() else {
            panic!("{monitor}")
        };
        let probed = &pods[0]["spec"]["containers"][0]["readinessProbe"]["httpGet"]["port"];
        assert_eq!(port(pods[0], &endpoint["port"]), port(pods[0], probed), "metrics are where probes are");
        monitored.insert(program(&pods));
    }
    assert_eq!(monitored, both());
}

#[test]
fn labels_of_the_drivers_own_pod_do_not_stand_in_for_those_of_holders() {
    let objects = with("monitoring");
    let monitors = of_kind(&objects, "PodMonitor");
    let driver = monitors.iter().find(|monitor| monitor["metadata"]["name"] == "aliquot-driver").unwrap();
    let relabelings = driver["spec"]["podMetricsEndpoints"][0]["relabelings"].as_array().unwrap();
    let dropped = relabelings.iter().find(|one| one["action"] == "labeldrop").unwrap();
    let labels: BTreeSet<&str> = dropped["regex"].as_str().unwrap().split('|').collect();
    assert!(["namespace", "pod", "container"].iter().all(|label| labels.contains(label)), "{labels:?}");
    assert!(relabelings.iter().any(|one| one["targetLabel"] == "node"));
}

#[test]
fn each_program_is_reached_on_its_ports_only_and_reaches_the_api_server_only() {
    let objects = with("network-policies");
    let scrapers = json!([
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}},
        {"namespaceSelector": {"matchLabels": {"metrics": "enabled"}}},
    ]);
    let mut guarded = BTreeSet::new();
    for policy in of_kind(&objects, "NetworkPolicy") {
        let spec = &policy["spec"];
        assert_eq!(spec["policyTypes"], json!(["Ingress", "Egress"]));
        let pods = selected(&objects, &spec["podSelector"]["matchLabels"]);
        let name = program(&pods);
        let allowed: Vec<(u64, &Value)> = spec["ingress"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|rule| {
                rule["ports"].as_array().unwrap().iter().map(|at| (port(pods[0], &at["port"]), &rule["from"]))
            })
            .collect();
        let expected: &[(u64, &Value)] = match name.as_str() {
            "driver" => &[(2112, &scrapers)],
            // API servers have addresses of their own.
            _ => &[(2113, &scrapers), (9443, &Value::Null)],
        };
        assert_eq!(allowed, expected, "{name}");
        let [egress] = spec["egress"].as_array().unwrap().as_slice() else { panic!("{policy}") };
        let ports: BTreeSet<u64> =
            egress["ports"].as_array().unwrap().iter().map(|at| at["port"].as_u64().unwrap()).collect();
        assert!(egress.get("to").is_none() && ports.is_superset(&[443, 6443].into()), "{name}: {ports:?}");
        assert!(egress["ports"].as_array().unwrap().iter().all(|at| at["protocol"] == "TCP"));
        guarded.insert(name);
    }
    assert_eq!(guarded, both());
}

#[test]
fn the_dashboard_is_a_config_map_that_grafanas_sidecar_takes() {
    let objects = with("dashboard");
    let [map]: [&Value; 1] = of_kind(&objects, "ConfigMap").try_into().unwrap();
    assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
    let dashboard: Value = serde_json::from_str(map["data"]["aliquot.json"].as_str().unwrap()).unwrap();
    assert!(dashboard["uid"].is_string() && dashboard["title"].is_string());
}
