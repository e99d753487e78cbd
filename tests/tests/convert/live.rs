//! Objects that `kubectl get` printed, and many of them.
use super::*;

/// A Deployment as `kubectl get -o yaml` shows one that Helm made: of about 3 KiB, most of which the API server set.
const LIVE: &str = "\
- apiVersion: apps/v1
  kind: Deployment
  metadata:
    annotations:
      deployment.kubernetes.io/revision: '3'
      kubectl.kubernetes.io/last-applied-configuration: '{\"kind\":\"Deployment\"}'
    creationTimestamp: '2026-01-12T09:14:03Z'
    generation: 3
    managedFields:
    - apiVersion: apps/v1
      fieldsType: FieldsV1
      fieldsV1:
        f:spec:
FIELDS
      manager: helm
      operation: Update
    name: web-NUMBER
    namespace: ml
    resourceVersion: '1234567'
    uid: 3b1c2d7e-0000-4000-8000-000000000000
  spec:
    replicas: 1
    template:
      metadata: {creationTimestamp: null, labels: {app: web}}
      spec:
        runtimeClassName: nvidia
        containers:
        - name: main
          env: [{name: NVIDIA_VISIBLE_DEVICES, value: all}]
          resources: {limits: {nvidia.com/gpu: '1'}}
  status:
    observedGeneration: 3
    conditions:
    - {type: Available, status: 'True', message: Deployment has minimum availability.}
";

/// So many of them, as one list.
fn live(number: usize, fields: usize) -> String {
    let fields: Vec<String> = (0..fields).map(|at| format!("          f:field{at}: {{}}")).collect();
    let one = LIVE.replace("FIELDS", &fields.join("\n"));
    let items: String = (0..number).map(|at| one.replace("NUMBER", &at.to_string())).collect();
    format!("apiVersion: v1\nkind: List\nmetadata: {{resourceVersion: ''}}\nitems:\n{items}")
}

#[test]
fn live_objects_are_made_fit_to_be_put_back() {
    let dir = dir_with(&[("live.yaml", &live(2, 3))]);
    let run = convert(dir.path(), &["--out", "out", "live.yaml"]);
    assert!(run.ok && run.stderr.contains("kubectl replace -f"), "{}", run.stderr);
    let text = fs::read_to_string(dir.path().join("out/live.yaml")).unwrap();
    assert!(text.starts_with('#') && text.contains("kubectl replace -f"), "{text}");
    let list: Value = serde_saphyr::from_str(&text).unwrap();
    let spec = json!({"resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "nvidia-gpu"}],
        "containers": [{"name": "main", "resources": {"claims": [{"name": "gpu"}]}}]});
    let template = json!({"metadata": {"creationTimestamp": null, "labels": {"app": "web"}}, "spec": spec});
    let metadata =
        json!({"name": "web-1", "namespace": "ml", "annotations": {"deployment.kubernetes.io/revision": "3"}});
    let expected = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
        "spec": {"replicas": 1, "template": template}});
    assert_eq!(list["items"][1], expected);

    let dir = dir_with(&[("pod.yaml", POD)]);
    let run = convert(dir.path(), &["pod.yaml"]);
    assert!(run.ok && !run.stderr.contains("replace"), "a manifest is applied: {}", run.stderr);
}

#[test]
fn a_list_of_ten_mebibytes_is_converted() {
    let list = live(3500, 90);
    assert!(list.len() > 10 << 20, "{}", list.len());
    let dir = dir_with(&[("live.yaml", &list)]);
    let run = convert(dir.path(), &["--out", "out", "live.yaml"]);
    assert!(run.ok, "{}", run.stderr);
    let text = fs::read_to_string(dir.path().join("out/live.yaml")).unwrap();
    assert_eq!(text.matches("resourceClaimTemplateName").count(), 3500);
    assert!(!text.lines().any(|line| line.trim_start().starts_with("nvidia.com/gpu")));
}
