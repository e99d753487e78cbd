//! On a real API server, the admission policy: a node's driver writes slices and Events of its own, and no others.
use aliquot_tests::testbed::documents;
use http::{Method, StatusCode};
use kube::Client;
use serde_json::{Value, json};

use super::{cluster::Cluster, *};

const POLICY: &str = include_str!("../../../deploy/base/admission-policy.yaml");
const SLICES: &str = "/apis/resource.k8s.io/v1/resourceslices";

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_writes_for_its_own_node_and_name_only() -> Result<()> {
    Cluster::run("policy", judged).await
}

/// A driver of the test's own, which no kubelet knows.
fn driver(cluster: &Cluster) -> String {
    format!("{}.example.com", cluster.namespace)
}

/// The policies as an overlay with another namespace and driver makes them.
async fn deploy(cluster: &mut Cluster) -> Result<()> {
    cluster.grant(&json!([
        {"apiGroups": ["resource.k8s.io"], "resources": ["resourceslices"], "verbs": ["get", "create", "update", "delete"]},
        {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
    ]))
    .await?;
    let text = POLICY
        .replace("'aliquot'", &format!("'{}'", cluster.namespace))
        .replace("'gpu.aliquot.dev'", &format!("'{}'", driver(cluster)))
        .replace(": aliquot-driver", &format!(": {}", cluster.namespace));
    for object in documents::<Value>(&text)? {
        let plural = match object["kind"].as_str() {
            Some("ValidatingAdmissionPolicy") => "validatingadmissionpolicies",
            _ => "validatingadmissionpolicybindings",
        };
        cluster.make(&format!("/apis/admissionregistration.k8s.io/v1/{plural}"), object).await?;
    }
    Ok(())
}

/// In the pool of the driver on `node`, wherever it says to be.
fn slice(cluster: &Cluster, (name, node): (&str, &str), place: (&str, Value), by: &str) -> Value {
    let name = format!("{}-{name}", cluster.namespace);
    let pool = json!({"name": format!("{}/{node}", driver(cluster)), "generation": 1, "resourceSliceCount": 1});
    let mut slice = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": name},
        "spec": {"driver": by, "pool": pool, "devices": []}});
    slice["spec"][place.0] = place.1;
    slice
}

async fn judged(cluster: &mut Cluster) -> Result<()> {
    deploy(cluster).await?;
    let (node, own) = (cluster.node().await?, driver(cluster));
    let (bound, unbound) = (cluster.account(Some(&node)).await?, cluster.account(None).await?);
    let of_node = |name: &'static str| (name, node.as_str());
    let mine = slice(cluster, of_node("mine"), ("nodeName", json!(node)), &own);
    let foreign = slice(cluster, of_node("foreign"), ("nodeName", json!("another-node")), &own);
    let in_foreign_pool = slice(cluster, ("pool", "another-node"), ("nodeName", json!(node)), &own);
    // Both the role and the policy are in force once these are so.
    let dry = format!("{SLICES}?dryRun=All");
    cluster.until(&bound, (Method::POST, &dry, Some(&mine)), |code| code == StatusCode::CREATED).await?;
    cluster.until(&bound, (Method::POST, &dry, Some(&foreign)), |code| code == StatusCode::FORBIDDEN).await?;

    let selector = json!({"nodeSelectorTerms": [{"matchFields": [
        {"key": "metadata.name", "operator": "In", "values": [node]}]}]});
    for (client, slice, words) in [
        (&bound, foreign.clone(), "only"),
        (&bound, slice(cluster, of_node("all"), ("allNodes", json!(true)), &own), "only"),
        (&bound, slice(cluster, of_node("selected"), ("nodeSelector", selector), &own), "only"),
        (&bound, slice(cluster, of_node("each"), ("perDeviceNodeSelection", json!(true)), &own), "only"),
        (
            &bound,
            slice(cluster, of_node("other"), ("nodeName", json!(node)), "other.example.com"),
            "its own ResourceSlices",
        ),
        (&bound, in_foreign_pool.clone(), "of pool"),
        (&unbound, mine.clone(), "bound to no node"),
    ] {
        refused(cluster, client, (Method::POST, SLICES, Some(&slice)), words).await?;
    }
    let (code, stored) = cluster.asked(&bound, Method::POST, SLICES, Some(&mine)).await?;
    assert_eq!(code, StatusCode::CREATED, "{stored}");
    cluster.make(SLICES, foreign).await?;
    cluster.make(SLICES, in_foreign_pool).await?;
    let path = |name: &str| format!("{SLICES}/{}-{name}", cluster.namespace);
    refused(cluster, &bound, (Method::DELETE, &path("foreign"), None), "only").await?;
    refused(cluster, &bound, (Method::DELETE, &path("pool"), None), "of pool").await?;
    refused(cluster, &unbound, (Method::DELETE, &path("mine"), None), "bound to no node").await?;
    let mut changed = stored;
    changed["spec"]["pool"]["generation"] = json!(2);
    let (code, answer) = cluster.asked(&bound, Method::PUT, &path("mine"), Some(&changed)).await?;
    assert!(code.is_success(), "{answer}");
    refused(cluster, &unbound, (Method::PUT, &path("mine"), Some(&answer)), "bound to no node").await?;
    let (code, answer) = cluster.asked(&bound, Method::DELETE, &path("mine"), None).await?;
    assert!(code.is_success(), "{answer}");
    // Nobody else is held to it.
    for name in ["foreign", "pool"] {
        let (code, answer) = cluster.asked(cluster.admin(), Method::DELETE, &path(name), None).await?;
        assert!(code.is_success(), "{answer}");
    }
    events(cluster, &bound, &node, &own).await
}

async fn events(cluster: &Cluster, bound: &Client, node: &str, own: &str) -> Result<()> {
    let path = "/apis/events.k8s.io/v1/namespaces/default/events?dryRun=All";
    let event = |about: &str, by: &str, on: &str| {
        json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"generateName": "aliquot-"},
            "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": by, "reportingInstance": on,
            "action": "Offer", "reason": "Tried", "type": "Normal",
            "regarding": {"apiVersion": "v1", "kind": "Node", "name": about, "uid": about}})
    };
    cluster
        .until(bound, (Method::POST, path, Some(&event(node, own, node))), |code| code == StatusCode::CREATED)
        .await?;
    let wrong = event(node, "kubelet", node);
    cluster.until(bound, (Method::POST, path, Some(&wrong)), |code| code == StatusCode::FORBIDDEN).await?;
    refused(cluster, bound, (Method::POST, path, Some(&event("another-node", own, node))), "no other node").await?;
    refused(cluster, bound, (Method::POST, path, Some(&event(node, own, "another-node"))), "reportingInstance").await
}

async fn refused(
    cluster: &Cluster,
    client: &Client,
    (method, path, body): (Method, &str, Option<&Value>),
    words: &str,
) -> Result<()> {
    let (code, answer) = cluster.asked(client, method, path, body).await?;
    let message = answer["message"].as_str().unwrap_or_default();
    assert!(code == StatusCode::FORBIDDEN && message.contains("ValidatingAdmissionPolicy"), "{path}: {code} {answer}");
    assert!(message.contains(words), "{words}: {message}");
    Ok(())
}
