//! Whole conversions, from texts to files.
use serde_json::{Value, json};

use super::*;

const TEN: &str = "sharing: {timeSlicing: {resources: [{name: gpu, replicas: 10}]}}";
const TWO_CONFIGS: &str = "
kind: ConfigMap
data:
  shared: 'sharing: {timeSlicing: {resources: [{name: gpu, replicas: 4}]}}'
  whole: 'version: v1'
";

fn input(name: &str, text: impl Into<String>) -> Input {
    Input { name: name.to_owned(), text: text.into() }
}

fn pod(name: &str, resource: &str, number: u64) -> String {
    let limits = json!({"limits": {resource: number}});
    let spec = json!({"containers": [{"name": "main", "resources": limits}]});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}).to_string()
}

fn inputs(config: &str, pods: &[String]) -> Inputs {
    let pods = pods.iter().enumerate().map(|(index, text)| input(&format!("p{index}.json"), text)).collect();
    Inputs { config: Some(input("c.yaml", config)), pods, ..Inputs::default() }
}

fn read(output: &Output, name: &str) -> Vec<Value> {
    let file = output.files.iter().find(|file| file.name == name).unwrap_or_else(|| panic!("no {name} in {output:?}"));
    tree::documents(&At::file(name), &file.text).unwrap()
}

fn says(output: &Output, is_warning: bool, words: &str) -> bool {
    output.notes.iter().any(|note| note.is_warning() == is_warning && note.to_string().contains(words))
}

fn template(output: &Output, pod: usize) -> Value {
    let pod = read(output, &format!("p{pod}.yaml")).remove(0);
    pod["spec"]["resourceClaims"][0]["resourceClaimTemplateName"].clone()
}

#[test]
fn the_driver_takes_every_policy_that_is_made() {
    let patterns = "resources: {gpus: [{pattern: '*A100*', name: a100}, {pattern: '*', name: gpu}]}\n".to_owned() + TEN;
    let devices = "sharing: {timeSlicing: {resources: [{name: gpu, replicas: 4, devices: [GPU-b1028956-cfa2-0990-bf4a-5da9abb51763, 1]}]}}";
    for config in [TEN, TWO_CONFIGS, &patterns, devices, "version: v1"] {
        let output = convert(&inputs(config, &[])).unwrap();
        let policies =
            output.files.iter().filter(|file| file.name.starts_with("policy") && !file.name.contains("configmap"));
        let policies: Vec<_> =
            policies.map(|file| aliquot_params::policy::Policy::parse(file.text.as_bytes())).collect();
        assert!(!policies.is_empty() && policies.iter().all(Result::is_ok), "{config}: {policies:?}");
        assert!(policies.iter().flatten().all(|policy| policy.warnings().is_empty()), "{config}: {policies:?}");
    }
}

#[test]
fn equal_requests_have_one_template_in_each_namespace() {
    let other = pod("d", "nvidia.com/gpu", 1).replacen("\"name\":\"d\"", "\"name\":\"d\",\"namespace\":\"ml\"", 1);
    let pods = [pod("a", "nvidia.com/gpu", 1), pod("b", "nvidia.com/gpu", 1), pod("c", "nvidia.com/gpu", 2), other];
    let output = convert(&inputs(TEN, &pods)).unwrap();
    let templates = read(&output, "claim-templates.yaml");
    let names: Vec<_> = templates.iter().map(|one| (&one["metadata"]["name"], &one["metadata"]["namespace"])).collect();
    let (share, two) = (json!("nvidia-gpu-share"), json!("nvidia-gpu-share-x2"));
    assert_eq!(names, [(&share, &Value::Null), (&two, &Value::Null), (&share, &json!("ml"))]);
    assert_eq!((template(&output, 0), template(&output, 1)), (share.clone(), share));
    let exactly = json!({"deviceClassName": "share.gpu.aliquot.dev", "capacity": {"requests": {"shares": "2"}}});
    assert_eq!(templates[1]["spec"]["spec"]["devices"]["requests"][0]["exactly"], exactly);
    assert!(says(&output, true, "promised access only"));
}

#[test]
fn one_only_is_warned_of_where_a_pod_asks_for_more() {
    let config = TEN.replace("resources:", "failRequestsGreaterThanOne: true, resources:");
    let output = convert(&inputs(&config, &[pod("a", "nvidia.com/gpu", 1)])).unwrap();
    assert!(!output.notes.iter().any(Note::is_warning), "{:?}", output.notes);
    let output = convert(&inputs(&config, &[pod("a", "nvidia.com/gpu", 3)])).unwrap();
    assert!(says(&output, true, "failRequestsGreaterThanOne"));
}

#[test]
fn the_nodes_label_or_the_default_says_which_configuration_a_pod_means() {
    let selecting = pod("b", "nvidia.com/gpu", 1).replacen(
        "\"spec\":{",
        "\"spec\":{\"nodeSelector\":{\"nvidia.com/device-plugin.config\":\"shared\"},",
        1,
    );
    let mut inputs = inputs(TWO_CONFIGS, &[pod("a", "nvidia.com/gpu", 1), selecting]);
    let faults = convert(&inputs).unwrap_err().to_string();
    assert!(faults.contains("--default-config") && faults.contains("shared, whole"), "{faults}");
    inputs.default_config = Some("whole".to_owned());
    let output = convert(&inputs).unwrap();
    assert_eq!((template(&output, 0), template(&output, 1)), (json!("nvidia-gpu"), json!("nvidia-gpu-share")));
    let files: Vec<&str> = output.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(files[..3], ["policy-shared.yaml", "policy-whole.yaml", "policy-configmap.yaml"]);
    assert_eq!(read(&output, "policy-configmap.yaml")[0]["data"].as_object().unwrap().len(), 2);
    inputs.default_config = Some("none".to_owned());
    assert!(convert(&inputs).unwrap_err().to_string().contains("is no configuration"));
    inputs.default_config = None;
    inputs.pods.clear();
    assert!(convert(&inputs).is_ok(), "policies alone need no default");
}

#[test]
fn resources_by_pattern_have_classes_of_their_own() {
    let config = "resources: {gpus: [{pattern: '*A100*', name: a100}]}\nsharing: {timeSlicing: {renameByDefault: true, \
                  resources: [{name: a100, replicas: 4}]}}";
    let pods = [pod("a", "nvidia.com/a100.shared", 1), pod("b", "nvidia.com/gpu", 1), pod("c", "nvidia.com/a100", 1)];
    let output = convert(&inputs(config, &pods)).unwrap();
    let classes = read(&output, "device-classes.yaml");
    let class = |name: &str| classes.iter().find(|class| class["metadata"]["name"] == name).unwrap().to_string();
    assert!(class("nvidia-a100.share.gpu.aliquot.dev").contains("productName.contains(\\\"A100\\\")"));
    assert!(class("nvidia-gpu.gpu.aliquot.dev").contains("!(device"));
    let templates = read(&output, "claim-templates.yaml");
    let used =
        |index: usize| templates[index]["spec"]["spec"]["devices"]["requests"][0]["exactly"]["deviceClassName"].clone();
    assert_eq!(used(0), "nvidia-a100.share.gpu.aliquot.dev");
    assert_eq!(used(1), "nvidia-gpu.gpu.aliquot.dev");
    assert_eq!(used(2), "nvidia-a100.gpu.aliquot.dev");
    assert!(says(&output, true, "offers it as nvidia.com/a100.shared only"));
}

#[test]
fn kept_pods_get_their_shares_through_a_class() {
    let mut inputs = inputs(TEN, &[pod("a", "nvidia.com/gpu", 2)]);
    inputs.keep_pods = true;
    let output = convert(&inputs).unwrap();
    let files: Vec<&str> = output.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(files, ["policy.yaml", "policy-configmap.yaml", "device-classes.yaml"]);
    let class = &read(&output, "device-classes.yaml")[0];
    assert_eq!(class["spec"]["extendedResourceName"], "nvidia.com/gpu");
    assert_eq!(class["metadata"]["name"], "nvidia-gpu.share.gpu.aliquot.dev");
    assert!(says(&output, true, "may be of one GPU"));
    inputs.config = Some(input("c.yaml", TWO_CONFIGS));
    inputs.default_config = Some("whole".to_owned());
    let output = convert(&inputs).unwrap();
    assert!(says(&output, true, "means different things"), "{:?}", output.notes);
    assert!(
        !output.files.iter().any(|file| file.name == "device-classes.yaml"),
        "the default leaves it to the overlay"
    );
}

#[test]
fn lists_and_all_kinds_that_make_pods_are_converted() {
    let spec = json!({"containers": [{"name": "x", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]});
    let template = json!({"template": {"spec": spec}});
    let mut items = vec![
        json!({"kind": "Pod", "spec": spec}),
        json!({"kind": "CronJob", "spec": {"jobTemplate": {"spec": template}}}),
    ];
    for kind in ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "ReplicationController"] {
        items.push(json!({"kind": kind, "spec": template}));
    }
    items.push(json!({"kind": "Rollout", "spec": template}));
    items.push(json!({"kind": "PodList", "items": [{"spec": spec}]}));
    let count = items.len();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
    let output = convert(&inputs(TEN, &[list])).unwrap();
    let converted = read(&output, "p0.yaml").remove(0).to_string();
    assert_eq!(converted.matches("nvidia-gpu-share").count(), count - 1, "all but the Rollout: {converted}");
    assert_eq!(converted.matches("limits").count(), 1);
    assert!(
        says(&output, true, "Rollout pod: spec.template.spec.containers[0].resources.limits"),
        "{:?}",
        output.notes
    );
}

#[test]
fn what_is_no_manifest_is_a_fault_and_nothing_else_comes_out() {
    for (text, words) in [
        ("- 1", "p0.json: is a list"),
        ("a: 1", "has no kind"),
        ("kind: List", "p0.json: items"),
        ("kind: Deployment\nmetadata: {name: x}\nspec: {}", "Deployment x: spec.template: is missing"),
        ("", "holds no manifest"),
        ("{{ .Values }}: [", "isn't YAML"),
    ] {
        let faults = convert(&inputs(TEN, &[text.to_owned()])).unwrap_err().to_string();
        assert!(faults.starts_with("error: ") && faults.contains(words), "{text:?}: {faults}");
    }
    let mut twice = inputs(TEN, &[pod("a", "nvidia.com/gpu", 1)]);
    twice.pods[0].name = "dir/policy.yml".to_owned();
    assert!(convert(&twice).unwrap_err().to_string().contains("policy.yaml"));
    assert!(convert(&Inputs::default()).unwrap_err().to_string().contains("nothing to convert"));
}

#[test]
fn the_same_inputs_give_the_same_files() {
    let inputs = inputs(TEN, &[pod("a", "nvidia.com/gpu", 1), pod("b", "nvidia.com/gpu.shared", 1)]);
    assert_eq!(convert(&inputs).unwrap().files, convert(&inputs).unwrap().files);
}

#[test]
fn pods_that_ask_for_what_mps_shares_stay_as_they_are() {
    let config = "sharing: {mps: {renameByDefault: true, resources: [{name: gpu, replicas: 10}]}}";
    let output = convert(&inputs(config, &[pod("a", "nvidia.com/gpu.shared", 1)])).unwrap();
    let limits = read(&output, "p0.yaml")[0]["spec"]["containers"][0]["resources"]["limits"].clone();
    assert_eq!(limits, json!({"nvidia.com/gpu.shared": 1}));
    assert!(says(&output, true, "stays as it is: it is shared by MPS"));
}

#[test]
fn hostile_texts_are_faults() {
    let deep = format!("kind: {}", "[".repeat(200_000));
    let anchor = |n: usize| format!("a{n}: &a{n} [*a{}, *a{}]\n", n - 1, n - 1);
    let anchors = (1..30).map(anchor).collect::<Vec<_>>().concat();
    let pattern = "resources: {gpus: [{pattern: \"a\\x7f\\nkind: x\", name: b}]}";
    for text in [deep, format!("a0: &a0 [1]\n{anchors}"), "a: &a [*a]".to_owned(), "\0".to_owned()] {
        assert!(convert(&inputs(TEN, std::slice::from_ref(&text))).is_err());
        assert!(convert(&inputs(&text, &[])).is_err());
    }
    match convert(&inputs(pattern, &[])) {
        Ok(output) => assert_eq!(read(&output, "policy.yaml")[0]["kind"], "Policy"),
        Err(faults) => assert!(faults.to_string().contains("pattern"), "{faults}"),
    }
}
