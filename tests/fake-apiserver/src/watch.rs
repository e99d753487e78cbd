//! Watches: the log of changes as a stream of events.
use std::{sync::Arc, time::Duration};

use axum::{body::Body, response::Response};
use futures::stream;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    routes::{self, Form, Options, Target},
    selectors::Selector,
    server::Shared,
    status::Failure,
    store::Change,
};

/// How long a watch lasts when the client does not say.
const LASTS: Duration = Duration::from_mins(5);
const BOOKMARKS: Duration = Duration::from_mins(1);

struct Watch {
    shared: Arc<Shared>,
    target: Target,
    selector: Selector,
    form: Form,
    bookmarks: bool,
    /// The version up to which everything was told.
    told: u64,
    pending: Vec<Value>,
    ends: Instant,
    bookmark_at: Instant,
    changed: tokio::sync::watch::Receiver<u64>,
    broken: tokio::sync::watch::Receiver<u64>,
    is_over: bool,
}

pub(crate) fn serve(shared: &Arc<Shared>, target: Target, options: &Options, form: Form) -> Result<Response, Failure> {
    let selector = routes::selector(options)?;
    let flag = |option: &Option<String>| option.as_deref() == Some("true");
    let store = shared.store();
    let from = options.resource_version.as_deref().filter(|version| !version.is_empty() && *version != "0");
    let initial = from.is_none() || flag(&options.send_initial_events);
    let told = match from {
        Some(version) if !initial => version.parse().map_err(|_| Failure::bad_request("invalid resource version"))?,
        _ => store.version(),
    };
    let mut pending = Vec::new();
    if initial {
        let objects = store.list(target.kind, &target.namespace, &selector);
        pending.extend(objects.iter().map(|object| event("ADDED", &routes::shown(target.kind, object, form))));
        if flag(&options.send_initial_events) {
            let mut end = bookmark(&target, told);
            end["object"]["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
            pending.push(end);
        }
    }
    let mut changed = store.changes();
    changed.mark_changed();
    drop(store);
    let mut broken = shared.watches.subscribe();
    broken.mark_unchanged();
    let now = Instant::now();
    let watch = Watch {
        shared: Arc::clone(shared),
        selector,
        form,
        bookmarks: flag(&options.allow_watch_bookmarks),
        told,
        pending,
        ends: now + options.timeout_seconds.map_or(LASTS, Duration::from_secs),
        bookmark_at: now + BOOKMARKS,
        changed,
        broken,
        is_over: false,
        target,
    };
    let events = stream::unfold(watch, |mut watch| async move {
        let lines = watch.next().await?;
        Some((Ok::<_, std::convert::Infallible>(lines), watch))
    });
    Ok(routes::streamed(Body::from_stream(events)))
}

impl Watch {
    /// The next lines; none at the end.
    async fn next(&mut self) -> Option<String> {
        while self.pending.is_empty() {
            if self.is_over {
                return None;
            }
            tokio::select! {
                biased;
                _ = self.broken.changed() => return None,
                changed = self.changed.changed() => {
                    changed.ok()?;
                    self.catch_up();
                }
                () = tokio::time::sleep_until(self.ends) => return None,
                () = tokio::time::sleep_until(self.bookmark_at) => {
                    self.bookmark_at += BOOKMARKS;
                    if self.bookmarks {
                        self.pending.push(bookmark(&self.target, self.told));
                    }
                }
            }
        }
        Some(self.pending.drain(..).fold(String::new(), |lines, event| format!("{lines}{event}\n")))
    }

    fn catch_up(&mut self) {
        let store = self.shared.store();
        let changes = store.since(self.told);
        self.told = self.told.max(store.version());
        drop(store);
        match changes {
            Ok(changes) => {
                let events: Vec<Value> = changes.iter().filter_map(|change| self.event(change)).collect();
                self.pending.extend(events);
            }
            Err(failure) => {
                self.pending.push(event("ERROR", &failure.body()));
                self.is_over = true;
            }
        }
    }

    /// What a change is for this watch: an object that no longer matches is gone for it.
    fn event(&self, change: &Change) -> Option<Value> {
        let kind = self.target.kind;
        if (change.group, change.resource) != (kind.group, kind.resource) {
            return None;
        }
        let is_here = |object: &&Value| {
            let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
            (self.target.namespace.is_empty() || namespace == self.target.namespace) && self.selector.matches(object)
        };
        let (before, after) = (change.before.as_ref().filter(is_here), change.after.as_ref().filter(is_here));
        let (name, object) = match (before, after) {
            (None, Some(after)) => ("ADDED", after.clone()),
            (Some(_), Some(after)) => ("MODIFIED", after.clone()),
            (Some(before), None) => {
                let mut gone = before.clone();
                gone["metadata"]["resourceVersion"] = json!(change.version.to_string());
                ("DELETED", gone)
            }
            (None, None) => return None,
        };
        Some(event(name, &routes::shown(kind, &object, self.form)))
    }
}

fn event(name: &str, object: &Value) -> Value {
    json!({ "type": name, "object": object })
}

fn bookmark(target: &Target, version: u64) -> Value {
    let kind = target.kind;
    event(
        "BOOKMARK",
        &json!({"kind": kind.camel, "apiVersion": kind.api_version(),
        "metadata": {"resourceVersion": version.to_string(), "creationTimestamp": null}}),
    )
}
