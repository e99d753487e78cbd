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
    let one = format!("{all}/no-such-object");
    let empty = Some(json!({"metadata": {"name": "no-such-object"}}));
    match asked.verb.as_str() {
        "get" => (Method::GET, one, None),
        "list" => (Method::GET, format!("{all}?limit=1"), None),
        "watch" => (Method::GET, format!("{all}?watch=1&timeoutSeconds=1&resourceVersion=1"), None),
        "create" if !part.is_empty() => (Method::POST, format!("{one}/{part}"), empty),
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
    for permission in &granted {
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
    let one = |rule: &Rule| json!({"apiGroups": rule.api_groups, "resources": rule.resources, "verbs": rule.verbs});
    rules.iter().map(one).collect()
}
