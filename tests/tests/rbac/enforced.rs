//! On a real API server, each permission: with it the driver's request is allowed, and without it refused.
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{cluster::Cluster, *};

/// The driver's request for a permission, about objects that there aren't: what isn't refused has another failure.
fn request(asked: &Asked, namespace: &str) -> (Method, String, Option<Value>) {
    let group = if asked.group.is_empty() { "/api/v1".to_owned() } else { format!("/apis/{}/v1", asked.group) };
    let (resource, part) = asked.resource.split_once('/').unwrap_or((&asked.resource, ""));
    let namespaced = ["resourceclaims", "pods", "events"].contains(&resource);
    let place = if namespaced { format!("/namespaces/{namespace}") } else { String::new() };
    let all = format!("{group}{place}/{resource}");
    let object = format!("{all}/no-such-object");
    let one = if part.is_empty() { object } else { format!("{object}/{part}") };
    let empty = Some(json!({"metadata": {"name": "no-such-object"}}));
    match asked.verb.as_str() {
        "get" => (Method::GET, one, None),
        "list" => (Method::GET, format!("{all}?limit=1"), None),
        "watch" => (Method::GET, format!("{all}?watch=1&timeoutSeconds=1&resourceVersion=1"), None),
        "create" if !part.is_empty() => (Method::POST, one, empty),
        "create" => (Method::POST, format!("{all}?dryRun=All"), empty),
        "update" => (Method::PUT, one, empty),
        "patch" => (Method::PATCH, one, Some(json!({}))),
        _ => (Method::DELETE, one, None),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_permission_is_what_allows_the_drivers_request() -> Result<()> {
    Cluster::run("rbac", each).await
}

async fn each(cluster: &mut Cluster) -> Result<()> {
    let granted = granted()?;
    cluster.grant(&as_json(&all()?)).await?;
    let account = cluster.account(None).await?;
    let is_allowed = |code: StatusCode| code != StatusCode::FORBIDDEN;
    for permission in granted.iter().filter(|asked| asked.resource != DRIVERS) {
        let (method, path, body) = request(permission, &cluster.namespace);
        cluster.until(&account, (method.clone(), &path, body.as_ref()), is_allowed).await?;
        cluster.regrant(&as_json(&without(permission)?)).await?;
        let refusal = cluster.until(&account, (method, &path, body.as_ref()), |code| !is_allowed(code)).await?;
        let words = format!("cannot {} resource \"{}\"", permission.verb, permission.resource);
        assert!(refusal["message"].as_str().unwrap().contains(&words), "{refusal}");
        cluster.regrant(&as_json(&all()?)).await?;
    }
    Ok(())
}

fn as_json(rules: &[Rule]) -> Value {
    let one = |rule: &Rule| {
        json!({"apiGroups": rule.api_groups, "resources": rule.resources, "resourceNames": rule.resource_names,
            "verbs": rule.verbs})
    };
    rules.iter().map(one).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_of_claims_take_the_permission_for_their_driver_and_a_token_of_their_node() -> Result<()> {
    Cluster::run("entries", entries).await
}

async fn entries(cluster: &mut Cluster) -> Result<()> {
    let (node, all) = (cluster.node().await?, all()?);
    cluster.grant(&as_json(&all)).await?;
    let claims = format!("/apis/resource.k8s.io/v1/namespaces/{}/resourceclaims", cluster.namespace);
    let request = json!({"name": "gpu", "exactly": {"deviceClassName": DRIVER}});
    cluster.make(&claims, json!({"metadata": {"name": "one"}, "spec": {"devices": {"requests": [request]}}})).await?;
    let device = json!({"driver": DRIVER, "pool": format!("{DRIVER}/{node}"), "device": "gpu-0"});
    let mut result = device.clone();
    result["request"] = json!("gpu");
    let here =
        json!({"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]});
    let allocated = json!({"status": {"allocation": {"nodeSelector": here, "devices": {"results": [result]}}}});
    let status = format!("{claims}/one/status");
    let (code, answer) = cluster.asked(cluster.admin(), Method::PATCH, &status, Some(&allocated)).await?;
    assert_eq!(code, StatusCode::OK, "{answer}");
    let (bound, unbound) = (cluster.account(Some(&node)).await?, cluster.account(None).await?);
    let entry = |number: u32| {
        let mut entry = device.clone();
        entry["data"] = json!({ "number": number });
        json!({"status": {"devices": [entry]}})
    };
    let (first, second) = (entry(1), entry(2));
    cluster.until(&bound, (Method::PATCH, &status, Some(&first)), |code| code == StatusCode::OK).await?;
    let (code, answer) = cluster.asked(&unbound, Method::PATCH, &status, Some(&second)).await?;
    assert!(code == StatusCode::UNPROCESSABLE_ENTITY && answer.to_string().contains(DRIVERS), "{code} {answer}");
    let driver = granted()?.into_iter().find(|asked| asked.resource == DRIVERS).unwrap();
    cluster.regrant(&as_json(&without(&driver)?)).await?;
    // What changes nothing is allowed, so that each try is another change.
    for number in 3..400 {
        let (code, answer) = cluster.asked(&bound, Method::PATCH, &status, Some(&entry(number))).await?;
        if code == StatusCode::UNPROCESSABLE_ENTITY {
            assert!(answer["message"].as_str().unwrap().contains("associated-node:patch"), "{answer}");
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    Err("it isn't refused".into())
}
