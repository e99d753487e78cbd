//! From a request to the store and back.
use std::sync::Arc;

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Query, State},
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    apply, device_status, discovery,
    faults::Trouble,
    kinds::Kind,
    permissions::Asked,
    reviews,
    selectors::Selector,
    server::Shared,
    status::Failure,
    store::{After, Part},
    table, watch,
};

/// The query of any request.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Options {
    watch: Option<String>,
    label_selector: Option<String>,
    field_selector: Option<String>,
    pub(crate) resource_version: Option<String>,
    pub(crate) send_initial_events: Option<String>,
    pub(crate) allow_watch_bookmarks: Option<String>,
    pub(crate) timeout_seconds: Option<u64>,
    limit: Option<usize>,
    #[serde(rename = "continue")]
    continues: Option<String>,
    dry_run: Option<String>,
}

/// What a path names.
pub(crate) struct Target {
    pub(crate) kind: &'static Kind,
    /// Empty for all, and for what has none.
    pub(crate) namespace: String,
    name: Option<String>,
    part: Part,
}

impl Target {
    /// What it is called where requests are counted and faults are injected.
    fn counted(&self) -> &'static str {
        if self.part == Part::Eviction { "pods/eviction" } else { self.kind.resource }
    }

    /// What is asked for, as rules of RBAC have it.
    fn asked(&self, verb: &str, options: &Options) -> Asked {
        let part = match self.part {
            Part::All => "",
            Part::Status => "/status",
            Part::Eviction => "/eviction",
        };
        let selected = || options.field_selector.as_deref()?.strip_prefix("metadata.name=").map(ToOwned::to_owned);
        Asked {
            verb: verb.to_owned(),
            group: self.kind.group.to_owned(),
            resource: format!("{}{part}", self.kind.resource),
            name: self.name.clone().or_else(selected),
        }
    }
}

/// How the answer is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Object,
    Table,
    Metadata,
}

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new().fallback(handle).with_state(shared)
}

async fn handle(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    query: Result<Query<Options>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let path: Vec<&str> = uri.path().split('/').filter(|part| !part.is_empty()).collect();
    let Some(target) = target(&path) else {
        let _ = shared.enter("other", "");
        if method == Method::POST
            && let Ok(review) = document(&body)
            && let Some(answer) = reviews::answer(&path, &review, token(&headers), &shared.denied())
        {
            return (StatusCode::CREATED, Json(answer)).into_response();
        }
        return match (path.as_slice(), discovery::answer(&path, &shared.version)) {
            (["healthz" | "livez" | "readyz", ..], _) => "ok".into_response(),
            (_, Some(answer)) => Json(answer).into_response(),
            _ => Failure::no_such_path().into_response(),
        };
    };
    let options = match query {
        Ok(Query(options)) => options,
        Err(error) => return Failure::bad_request(error.to_string()).into_response(),
    };
    let verb = verb(&method, &target, &options);
    let asked = target.asked(verb, &options);
    if !shared.permissions().allow(token(&headers), &asked) {
        return Failure::forbidden(&asked).into_response();
    }
    let counted = if options.dry_run.is_some() { "dry-run" } else { verb };
    match shared.enter(counted, target.counted()) {
        Some(Trouble::Error(code, retry_after)) => return Failure::injected(code, retry_after).into_response(),
        Some(Trouble::Garbage) => {
            return ([(header::CONTENT_TYPE, "application/json")], "{\"kind\": garbage").into_response();
        }
        Some(Trouble::Silence) => return std::future::pending().await,
        Some(Trouble::Delay(time)) => tokio::time::sleep(time).await,
        None => {}
    }
    let answer = match verb {
        "watch" => watch::serve(&shared, target, &options, form(&headers)),
        "list" => list(&shared, &target, &options, form(&headers)),
        _ => change(&shared, &method, &target, &options, &headers, &body),
    };
    answer.unwrap_or_else(IntoResponse::into_response)
}

fn token(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

fn target(path: &[&str]) -> Option<Target> {
    let (group, version, rest) = match path {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, resource, rest @ ..] if *resource != "status" => {
            (*namespace, [&[*resource], rest].concat())
        }
        rest => ("", rest.to_vec()),
    };
    let (resource, rest) = rest.split_first()?;
    let kind = Kind::find(group, version, resource)?;
    let (name, part) = match rest {
        [] => (None, Part::All),
        [name] => (Some((*name).to_owned()), Part::All),
        [name, "status"] if kind.status => (Some((*name).to_owned()), Part::Status),
        [name, "eviction"] if kind.resource == "pods" => (Some((*name).to_owned()), Part::Eviction),
        _ => return None,
    };
    Some(Target { kind, namespace: namespace.to_owned(), name, part })
}

fn verb(method: &Method, target: &Target, options: &Options) -> &'static str {
    let watches = options.watch.as_deref().is_some_and(|watch| ["1", "true"].contains(&watch));
    match (method.as_str(), &target.name) {
        ("GET", None) if watches => "watch",
        ("GET", None) => "list",
        ("GET", Some(_)) => "get",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", Some(_)) => "delete",
        ("DELETE", None) => "deletecollection",
        _ => "other",
    }
}

pub(crate) fn selector(options: &Options) -> Result<Selector, Failure> {
    Selector::parse(options.label_selector.as_deref(), options.field_selector.as_deref())
}

fn form(headers: &HeaderMap) -> Form {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accept.contains("as=Table") {
        Form::Table
    } else if accept.contains("as=PartialObjectMetadata") {
        Form::Metadata
    } else {
        Form::Object
    }
}

/// One object in the form that was asked for.
pub(crate) fn shown(kind: &Kind, object: &Value, form: Form) -> Value {
    match form {
        Form::Object => object.clone(),
        Form::Table => table::table(kind, std::slice::from_ref(object), None),
        Form::Metadata => {
            json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
        }
    }
}

fn list(shared: &Shared, target: &Target, options: &Options, form: Form) -> Result<Response, Failure> {
    let (kind, selector) = (target.kind, selector(options)?);
    let store = shared.store();
    let token = options.continues.as_deref().filter(|token| !token.is_empty());
    let (version, after) = match token {
        Some(token) => continued(token).ok_or_else(Failure::expired)?,
        None => (store.version().to_string(), None),
    };
    let limit = options.limit.filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    let (page, left) = store.page(kind, &target.namespace, &selector, after.as_ref(), limit);
    drop(store);
    let mut metadata = json!({ "resourceVersion": version });
    if let (Some(last), Some(left)) = (page.last(), left) {
        let field = |name: &str| last["metadata"][name].as_str().unwrap_or_default();
        metadata["continue"] = json!(format!("{version}/{left}/{}/{}", field("namespace"), field("name")));
        metadata["remainingItemCount"] = json!(left);
    }
    let page = page.as_slice();
    let answer = match form {
        Form::Table => table::table(kind, page, Some(metadata)),
        Form::Object => {
            json!({"kind": format!("{}List", kind.camel), "apiVersion": kind.api_version(), "metadata": metadata, "items": page})
        }
        Form::Metadata => {
            let items: Vec<Value> = page.iter().map(|object| shown(kind, object, form)).collect();
            json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "items": items})
        }
    };
    Ok(Json(answer).into_response())
}

/// The version of a list's first page, which all of its pages have, so that a watch from there tells what was written in
/// between; and the last object so far.
fn continued(token: &str) -> Option<(String, Option<After>)> {
    let mut parts = token.splitn(4, '/').map(ToOwned::to_owned);
    let (version, left, namespace, name) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    Some((version, Some(After { namespace, name, left: left.parse().ok()? })))
}

/// Everything about one object, and the deletion of many.
fn change(
    shared: &Shared,
    method: &Method,
    target: &Target,
    options: &Options,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Response, Failure> {
    let Target { kind, namespace, name, part } = target;
    if kind.resource == "resourceslices"
        && ["POST", "PUT"].contains(&method.as_str())
        && let Some(held) = shared.held(token(headers))
    {
        held.judge(&document(body)?)?;
    }
    let mut store = shared.store();
    if options.dry_run.is_some() {
        // Nothing is kept; what a server would answer to a write is what it was sent, less what it doesn't store.
        let mut object = if body.is_empty() { json!({}) } else { document(body)? };
        store.prune(kind, &mut object);
        let code = if method == Method::POST { StatusCode::CREATED } else { StatusCode::OK };
        return Ok((code, Json(object)).into_response());
    }
    let (code, object) = match (method.as_str(), name) {
        ("GET", Some(name)) => (StatusCode::OK, store.get(kind, namespace, name)?),
        ("POST", None) => {
            let object = document(body)?;
            let named = object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or(namespace);
            if kind.namespaced && (namespace.is_empty() || named != namespace) {
                return Err(Failure::bad_request("the namespace of the provided object does not match the request"));
            }
            (StatusCode::CREATED, store.create(kind, namespace, object)?)
        }
        // No disruption budget is known here: a test that wants a refusal injects it.
        ("POST", Some(name)) if *part == Part::Eviction => {
            let preconditions = document(body)?.pointer("/deleteOptions/preconditions").cloned().unwrap_or_default();
            store.delete(kind, namespace, name, &preconditions)?;
            (StatusCode::CREATED, json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}))
        }
        (_, Some(_)) if *part == Part::Eviction => return Err(Failure::no_such_path()),
        ("PUT", Some(name)) => {
            let (before, object) = (store.get(kind, namespace, name)?, document(body)?);
            if *part == Part::Status {
                device_status::judge(shared, token(headers), ("update", kind), &before, &object)?;
            }
            (StatusCode::OK, store.replace(kind, namespace, name, object, *part)?)
        }
        ("PATCH", Some(name)) => {
            let content = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
            let patch = document(body)?;
            let is_apply = content.starts_with("application/apply-patch");
            match store.get(kind, namespace, name) {
                Ok(before) => {
                    let mut object = before.clone();
                    if is_apply {
                        apply::apply(&mut object, &patch);
                    } else {
                        apply::merge(&mut object, &patch);
                    }
                    if *part == Part::Status {
                        device_status::judge(shared, token(headers), ("patch", kind), &before, &object)?;
                    }
                    (StatusCode::OK, store.replace(kind, namespace, name, object, *part)?)
                }
                Err(_) if is_apply && *part == Part::All => {
                    (StatusCode::CREATED, store.create(kind, namespace, patch)?)
                }
                Err(failure) => return Err(failure),
            }
        }
        ("DELETE", Some(name)) => {
            let wishes = if body.is_empty() { Value::Null } else { document(body)? };
            let preconditions = wishes.get("preconditions").cloned().unwrap_or_default();
            (StatusCode::OK, store.delete(kind, namespace, name, &preconditions)?)
        }
        ("DELETE", None) => {
            let gone = store.list(kind, namespace, &selector(options)?);
            for object in &gone {
                let field = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
                store.delete(kind, &field("namespace"), &field("name"), &Value::Null)?;
            }
            let list = json!({"kind": format!("{}List", kind.camel), "apiVersion": kind.api_version(),
                "metadata": {"resourceVersion": store.version().to_string()}, "items": gone});
            return Ok(Json(list).into_response());
        }
        _ => return Err(Failure::no_such_path()),
    };
    drop(store);
    Ok((code, Json(shown(kind, &object, form(headers)))).into_response())
}

/// JSON or YAML.
fn document(body: &Bytes) -> Result<Value, Failure> {
    if let Ok(value) = serde_json::from_slice(body) {
        return Ok(value);
    }
    let text = std::str::from_utf8(body).map_err(|error| Failure::bad_request(error.to_string()))?;
    serde_saphyr::from_str(text).map_err(|error| Failure::bad_request(format!("the body can't be read: {error}")))
}

/// A body that ends when the stream does.
pub(crate) fn streamed(body: Body) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}
