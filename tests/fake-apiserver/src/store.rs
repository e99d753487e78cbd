//! The objects, and the log of their changes that watches follow.
use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
};

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{apply, kinds::Kind, selectors::Selector, status::Failure};

/// How many changes are kept for watches that begin in the past.
const LOG: usize = 20_000;

/// Where an object is: resource with its group, namespace, name.
type Key = (&'static str, &'static str, String, String);

/// Where a page of a list begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct After {
    /// Of the last object of the page before.
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// How many came after it.
    pub(crate) left: usize,
}

/// What happened to an object.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) version: u64,
    pub(crate) group: &'static str,
    pub(crate) resource: &'static str,
    pub(crate) before: Option<Value>,
    /// As it is now; none if it is gone.
    pub(crate) after: Option<Value>,
}

/// Which part of an object a write is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    All,
    Status,
    /// A pod's: what is written there asks for its deletion.
    Eviction,
}

/// All objects.
#[derive(Debug)]
pub(crate) struct Store {
    objects: BTreeMap<Key, Value>,
    version: u64,
    log: VecDeque<Change>,
    /// The version up to which the log has been forgotten.
    forgotten: u64,
    changed: watch::Sender<u64>,
    /// By resource: paths of fields that are not stored.
    dropped: Vec<(String, String)>,
}

impl Store {
    pub(crate) fn new(dropped: Vec<(String, String)>) -> Self {
        Self {
            objects: BTreeMap::new(),
            version: 1,
            log: VecDeque::new(),
            forgotten: 0,
            changed: watch::Sender::new(1),
            dropped,
        }
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Changes after a version; an error if that is too long ago.
    pub(crate) fn since(&self, version: u64) -> Result<Vec<Change>, Failure> {
        if version < self.forgotten {
            return Err(Failure::expired());
        }
        Ok(self.log.iter().filter(|change| change.version > version).cloned().collect())
    }

    /// Forgets the log, so that every watch which begins in the past is refused.
    pub(crate) fn forget(&mut self) {
        self.log.clear();
        self.forgotten = self.version + 1;
        self.version += 1;
    }

    /// All objects of a kind as they were after each of its changes, as far as the log goes back.
    pub(crate) fn history(&self, kind: &Kind) -> Vec<Vec<Value>> {
        let mut there: BTreeMap<String, Value> = BTreeMap::new();
        let changes = self.log.iter().filter(|change| change.group == kind.group && change.resource == kind.resource);
        let after = |change: &Change| {
            if let Some(object) = change.after.as_ref().or(change.before.as_ref()) {
                let field = |name: &str| object["metadata"][name].as_str().unwrap_or_default();
                let at = format!("{}/{}", field("namespace"), field("name"));
                match &change.after {
                    Some(after) => there.insert(at, after.clone()),
                    None => there.remove(&at),
                };
            }
            there.values().cloned().collect()
        };
        changes.map(after).collect()
    }

    pub(crate) fn get(&self, kind: &'static Kind, namespace: &str, name: &str) -> Result<Value, Failure> {
        let found = self.objects.get(&key(kind, namespace, name)).cloned();
        found.ok_or_else(|| Failure::not_found(kind.group, kind.resource, name))
    }

    /// In the order of namespace and name; an empty namespace is all of them.
    pub(crate) fn list(&self, kind: &'static Kind, namespace: &str, selector: &Selector) -> Vec<Value> {
        let of_kind = self.objects.iter().filter(|(key, _)| key.0 == kind.group && key.1 == kind.resource);
        let there = of_kind.filter(|(key, _)| namespace.is_empty() || key.2 == namespace);
        there.map(|(_, object)| object).filter(|object| selector.matches(object)).cloned().collect()
    }

    /// The part of [`Store::list`] after an object, of `limit` objects at most, and how many come after that: none, or as many
    /// as there were after the page before, since counting costs more than the page.
    pub(crate) fn page(
        &self,
        kind: &'static Kind,
        namespace: &str,
        selector: &Selector,
        after: Option<&After>,
        limit: usize,
    ) -> (Vec<Value>, Option<usize>) {
        let first = match after {
            Some(After { namespace, name, .. }) => {
                Bound::Excluded((kind.group, kind.resource, namespace.clone(), name.clone()))
            }
            None => Bound::Included((kind.group, kind.resource, namespace.to_owned(), String::new())),
        };
        let rest = self.objects.range((first, Bound::Unbounded));
        let there = rest.take_while(|(key, _)| {
            key.0 == kind.group && key.1 == kind.resource && (namespace.is_empty() || key.2 == namespace)
        });
        let mut chosen = there.map(|(_, object)| object).filter(|object| selector.matches(object));
        let page: Vec<Value> = chosen.by_ref().take(limit).cloned().collect();
        let more = chosen.next().map(|_| match after {
            Some(after) => after.left.saturating_sub(page.len()).max(1),
            None => 1 + chosen.count(),
        });
        (page, more)
    }

    /// Puts an object there as it is, without its kind's rules.
    pub(crate) fn seed(&mut self, kind: &'static Kind, object: Value) {
        let field = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (field("namespace"), field("name"));
        self.put(kind, &namespace, &name, object);
    }

    pub(crate) fn create(&mut self, kind: &'static Kind, namespace: &str, mut object: Value) -> Result<Value, Failure> {
        let taken = |name: &str| self.objects.contains_key(&key(kind, namespace, name));
        let name = name_of(kind, &object, taken)?;
        // Admission comes before what is stored is looked at.
        if kind.namespaced && self.is_terminating(namespace) {
            return Err(Failure::terminating(kind.group, kind.resource, &name, namespace));
        }
        if self.objects.contains_key(&key(kind, namespace, &name)) {
            return Err(Failure::exists(kind.resource, &name));
        }
        if kind.status {
            object.as_object_mut().map(|fields| fields.remove("status"));
        }
        let created = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let metadata = metadata(&mut object);
        metadata.insert("name".to_owned(), json!(name));
        metadata.insert("uid".to_owned(), json!(uuid::Uuid::new_v4().to_string()));
        metadata.insert("creationTimestamp".to_owned(), json!(created));
        metadata.insert("generation".to_owned(), json!(1));
        if kind.namespaced {
            metadata.insert("namespace".to_owned(), json!(namespace));
        }
        Ok(self.put(kind, namespace, &name, object))
    }

    /// Only of a namespace that was made; others are taken to be there.
    fn is_terminating(&self, namespace: &str) -> bool {
        let found = Kind::find("", "v1", "namespaces").and_then(|kind| self.objects.get(&key(kind, "", namespace)));
        found.is_some_and(|namespace| namespace.pointer("/metadata/deletionTimestamp").is_some())
    }

    /// Replaces an object, as far as `part` goes; the same again changes nothing.
    pub(crate) fn replace(
        &mut self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        mut object: Value,
        part: Part,
    ) -> Result<Value, Failure> {
        let before = self.get(kind, namespace, name)?;
        let expected = object.pointer("/metadata/resourceVersion").and_then(Value::as_str).filter(|v| !v.is_empty());
        if expected.is_some_and(|version| before.pointer("/metadata/resourceVersion") != Some(&json!(version))) {
            return Err(Failure::conflict(kind.resource, name));
        }
        let uid = object.pointer("/metadata/uid").and_then(Value::as_str).filter(|uid| !uid.is_empty());
        if uid.is_some_and(|uid| before.pointer("/metadata/uid") != Some(&json!(uid))) {
            return Err(Failure::precondition(kind.resource, name));
        }
        if part == Part::Status {
            let status = object.get("status").cloned().unwrap_or(Value::Null);
            object = before.clone();
            set(&mut object, "status", status);
        } else if kind.status {
            let status = before.get("status").cloned().unwrap_or(Value::Null);
            set(&mut object, "status", status);
        }
        let old = before.get("metadata").cloned().unwrap_or_default();
        let metadata = metadata(&mut object);
        for field in ["name", "namespace", "uid", "creationTimestamp", "generation", "deletionTimestamp"] {
            match old.get(field) {
                Some(value) => metadata.insert(field.to_owned(), value.clone()),
                None => metadata.remove(field),
            };
        }
        metadata.insert("resourceVersion".to_owned(), old.get("resourceVersion").cloned().unwrap_or_default());
        self.prune(kind, &mut object);
        if object == before {
            return Ok(before);
        }
        if object.get("spec") != before.get("spec") {
            let generation = old.get("generation").and_then(Value::as_u64).unwrap_or_default() + 1;
            self::metadata(&mut object).insert("generation".to_owned(), json!(generation));
        }
        if object.pointer("/metadata/deletionTimestamp").is_some() && !has_finalizers(&object) {
            return self.remove(kind, namespace, name);
        }
        Ok(self.put(kind, namespace, name, object))
    }

    /// Deletes an object, or marks it while it has finalizers.
    pub(crate) fn delete(
        &mut self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        preconditions: &Value,
    ) -> Result<Value, Failure> {
        let mut object = self.get(kind, namespace, name)?;
        for field in ["uid", "resourceVersion"] {
            let expected = preconditions.get(field).filter(|value| !value.is_null());
            if expected.is_some_and(|expected| object["metadata"].get(field) != Some(expected)) {
                return Err(Failure::precondition(kind.resource, name));
            }
        }
        if !has_finalizers(&object) {
            return self.remove(kind, namespace, name);
        }
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        metadata(&mut object).entry("deletionTimestamp".to_owned()).or_insert(json!(now));
        Ok(self.put(kind, namespace, name, object))
    }

    fn remove(&mut self, kind: &'static Kind, namespace: &str, name: &str) -> Result<Value, Failure> {
        let gone = self.objects.remove(&key(kind, namespace, name));
        let mut object = gone.ok_or_else(|| Failure::not_found(kind.group, kind.resource, name))?;
        let before = object.clone();
        self.version += 1;
        metadata(&mut object).insert("resourceVersion".to_owned(), json!(self.version.to_string()));
        self.record(kind, Some(before), None);
        Ok(object)
    }

    fn put(&mut self, kind: &'static Kind, namespace: &str, name: &str, mut object: Value) -> Value {
        self.prune(kind, &mut object);
        self.version += 1;
        metadata(&mut object).insert("resourceVersion".to_owned(), json!(self.version.to_string()));
        set(&mut object, "kind", json!(kind.camel));
        set(&mut object, "apiVersion", json!(kind.api_version()));
        let before = self.objects.insert(key(kind, namespace, name), object.clone());
        self.record(kind, before, Some(object.clone()));
        object
    }

    pub(crate) fn drop_field(&mut self, resource: &str, path: &str) {
        self.dropped.push((resource.to_owned(), path.to_owned()));
    }

    pub(crate) fn store_field(&mut self, resource: &str, path: &str) {
        self.dropped.retain(|(of, dropped)| of != resource || dropped != path);
    }

    pub(crate) fn prune(&self, kind: &Kind, object: &mut Value) {
        for (_, path) in self.dropped.iter().filter(|(resource, _)| resource == kind.resource) {
            apply::drop_field(object, path);
        }
    }

    fn record(&mut self, kind: &'static Kind, before: Option<Value>, after: Option<Value>) {
        self.log.push_back(Change { version: self.version, group: kind.group, resource: kind.resource, before, after });
        while self.log.len() > LOG {
            self.forgotten = self.log.pop_front().map_or(self.forgotten, |change| change.version);
        }
        self.changed.send_replace(self.version);
    }
}

fn key(kind: &'static Kind, namespace: &str, name: &str) -> Key {
    (kind.group, kind.resource, namespace.to_owned(), name.to_owned())
}

fn set(object: &mut Value, field: &str, value: Value) {
    if let Some(fields) = object.as_object_mut() {
        if value.is_null() {
            fields.remove(field);
        } else {
            fields.insert(field.to_owned(), value);
        }
    }
}

/// The metadata of an object, made if need be.
fn metadata(object: &mut Value) -> &mut serde_json::Map<String, Value> {
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    match &mut object["metadata"] {
        Value::Object(metadata) => metadata,
        _ => unreachable!("it was made an object"),
    }
}

fn has_finalizers(object: &Value) -> bool {
    object.pointer("/metadata/finalizers").and_then(Value::as_array).is_some_and(|finalizers| !finalizers.is_empty())
}

/// The name, or one that is made from `generateName`: its first 58 bytes and five random characters, with eight attempts at
/// one that isn't taken, as Kubernetes makes (KEP-4420).
fn name_of(kind: &Kind, object: &Value, taken: impl Fn(&str) -> bool) -> Result<String, Failure> {
    let field = |name: &str| object.pointer(&format!("/metadata/{name}")).and_then(Value::as_str).unwrap_or_default();
    if !field("name").is_empty() {
        return Ok(field("name").to_owned());
    }
    let base = field("generateName");
    if base.is_empty() {
        return Err(Failure::invalid(format!("{} is invalid: metadata.name: Required value", kind.camel)));
    }
    let cut = base.get(..base.len().min(58)).unwrap_or(base);
    let generated = || {
        let random = uuid::Uuid::new_v4().simple().to_string();
        format!("{cut}{}", random.get(..5).unwrap_or_default())
    };
    Ok((0..7).map(|_| generated()).find(|name| !taken(name)).unwrap_or_else(generated))
}
