//! From an `AdmissionReview` to its answer (`admission.k8s.io/v1`). Pure.
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    judge::{Carrier, Finding, judge},
    lean,
};

/// Whose objects with parameters are judged.
const GROUP: &str = "resource.k8s.io";
/// The one version of reviews that API servers of Kubernetes 1.22 and later send.
const API_VERSION: &str = "admission.k8s.io/v1";
/// How many faults are told; the first ones show what is wrong with the rest.
const MOST: usize = 20;

/// Why something that was sent can't be answered.
#[derive(Debug, thiserror::Error)]
pub enum NoReview {
    /// It is something else.
    #[error("this is no AdmissionReview with a request that can be judged")]
    Form(#[from] serde_json::Error),
    /// It is one of another version.
    #[error("this is {api_version} {kind}, but an AdmissionReview of admission.k8s.io/v1 is needed")]
    Version {
        /// As it was sent.
        api_version: String,
        /// As it was sent.
        kind: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    kind: String,
    request: Request,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    resource: Resource,
    #[serde(default)]
    sub_resource: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    namespace: Option<String>,
    operation: String,
    #[serde(default, deserialize_with = "lean::object")]
    object: Value,
    #[serde(default, deserialize_with = "lean::object")]
    old_object: Value,
}

#[derive(Deserialize)]
struct Resource {
    group: String,
    resource: String,
}

/// What was decided about one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The request's, by which the API server knows the answer.
    pub uid: String,
    /// Its kind; none if it isn't one that is judged.
    pub carrier: Option<Carrier>,
    /// Which object, such as `resourceclaims default/one-gpu`.
    pub object: String,
    /// What is wrong with it; nothing if it is allowed.
    pub findings: Vec<Finding>,
}

impl Verdict {
    /// The `AdmissionReview` to answer with.
    pub fn to_review(&self) -> Value {
        let mut response = json!({"uid": self.uid, "allowed": self.findings.is_empty()});
        if !self.findings.is_empty() {
            response["status"] = self.status();
        }
        json!({"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response})
    }

    /// All that is wrong, in one line.
    pub fn message(&self) -> String {
        let mut told: Vec<String> = self.findings.iter().take(MOST).map(ToString::to_string).collect();
        if let Some(more) = self.findings.len().checked_sub(MOST + 1) {
            told.push(format!("and {} more", more + 1));
        }
        told.join("; ")
    }

    fn status(&self) -> Value {
        json!({"status": "Failure", "code": 422, "reason": "Invalid", "message": self.message()})
    }
}

/// Judges the request of a review, for the parameters of `driver`.
///
/// What isn't known here is allowed: whoever made the API server ask about it has no answer to expect.
pub fn review(driver: &str, body: &[u8]) -> Result<Verdict, NoReview> {
    let Review { api_version, kind, request } = serde_json::from_slice(body)?;
    if api_version != API_VERSION || kind != "AdmissionReview" {
        return Err(NoReview::Version { api_version, kind });
    }
    let Request { uid, resource: Resource { group, resource }, sub_resource, operation, object, old_object, .. } =
        &request;
    let whole = sub_resource.as_deref().unwrap_or_default().is_empty();
    let old = match operation.as_str() {
        "CREATE" => Some(None),
        "UPDATE" => Some(Some(old_object)),
        _ => None,
    };
    let carrier = Carrier::of(resource).filter(|_| group == GROUP);
    let findings = match (carrier, old) {
        (Some(carrier), Some(old)) if whole => judge(carrier, driver, object, old),
        _ => Vec::new(),
    };
    let object = described(&request);
    Ok(Verdict { uid: uid.clone(), carrier, object, findings })
}

/// A request to create an object may leave its name to the API server.
fn described(request: &Request) -> String {
    let in_object = |field: &str| request.object.pointer(field).and_then(Value::as_str);
    let name = request.name.as_deref().filter(|name| !name.is_empty());
    let name = name.or_else(|| in_object("/metadata/name")).or_else(|| in_object("/metadata/generateName"));
    let namespace = request.namespace.as_deref().filter(|namespace| !namespace.is_empty());
    let namespace = namespace.map(|namespace| format!("{namespace}/")).unwrap_or_default();
    format!("{} {namespace}{}", request.resource.resource, name.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DRIVER: &str = "gpu.aliquot.dev";

    fn asked(resource: &str, version: &str, operation: &str, object: &Value, old: &Value) -> Value {
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": "705ab4f5", "kind": {"group": GROUP, "version": version, "kind": "Any"},
            "resource": {"group": GROUP, "version": version, "resource": resource},
            "name": "one", "namespace": "default", "operation": operation, "object": object, "oldObject": old}})
    }

    fn answered(review_of: &Value) -> Verdict {
        review(DRIVER, review_of.to_string().as_bytes()).unwrap()
    }

    fn class(kind: &str) -> Value {
        let parameters = json!({"apiVersion": "gpu.aliquot.dev/v1alpha1", "kind": kind});
        json!({"spec": {"config": [{"opaque": {"driver": DRIVER, "parameters": parameters}}]}})
    }

    #[test]
    fn good_parameters_are_allowed_and_wrong_ones_refused_in_each_version() {
        for version in ["v1", "v1beta2", "v1beta1"] {
            let good = answered(&asked("deviceclasses", version, "CREATE", &class("GpuConfig"), &Value::Null));
            assert_eq!(good.to_review()["response"], json!({"uid": "705ab4f5", "allowed": true}));
            let bad = answered(&asked("deviceclasses", version, "CREATE", &class("GpuConfic"), &Value::Null));
            let bad = bad.to_review();
            assert_eq!(bad["response"]["allowed"], json!(false));
            assert_eq!(
                bad["response"]["status"]["message"],
                json!(
                    "spec.config[0].opaque.parameters.kind: is \"GpuConfic\", but must be one of GpuConfig, ShareConfig, VfioConfig"
                )
            );
        }
    }

    #[test]
    fn only_writes_of_parameters_are_judged() {
        let bad = class("GpuConfic");
        for (resource, operation, old, allowed) in [
            ("deviceclasses", "UPDATE", &bad, true),
            ("deviceclasses", "UPDATE", &class("GpuConfig"), false),
            ("deviceclasses", "DELETE", &bad, true),
            ("deviceclasses", "CONNECT", &bad, true),
            ("pods", "CREATE", &Value::Null, true),
        ] {
            let verdict = answered(&asked(resource, "v1", operation, &bad, old));
            assert_eq!(verdict.findings.is_empty(), allowed, "{operation} {resource}");
        }
        let mut status = asked("deviceclasses", "v1", "UPDATE", &bad, &class("GpuConfig"));
        status["request"]["subResource"] = json!("status");
        assert!(answered(&status).findings.is_empty());
    }

    #[test]
    fn the_object_is_named_also_before_it_has_a_name() {
        let mut request =
            asked("resourceclaims", "v1", "CREATE", &json!({"metadata": {"generateName": "pod-gpu-"}}), &Value::Null);
        request["request"]["name"] = json!("");
        assert_eq!(answered(&request).object, "resourceclaims default/pod-gpu-");
    }

    #[test]
    fn many_faults_are_cut_short() {
        let mut class = class("GpuConfig");
        for n in 0..30 {
            class["spec"]["config"][0]["opaque"]["parameters"][format!("f{n}")] = json!(1);
        }
        let verdict = answered(&asked("deviceclasses", "v1", "CREATE", &class, &Value::Null));
        assert!(verdict.message().ends_with("; and 10 more"), "{}", verdict.message());
    }

    #[test]
    fn what_is_no_review_is_told_so() {
        for body in ["", "{", "[]", "{}", r#"{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}"#] {
            assert!(matches!(review(DRIVER, body.as_bytes()), Err(NoReview::Form(_))), "{body}");
        }
        let mut old = asked("deviceclasses", "v1", "CREATE", &Value::Null, &Value::Null);
        old["apiVersion"] = json!("admission.k8s.io/v1beta1");
        assert!(matches!(review(DRIVER, old.to_string().as_bytes()), Err(NoReview::Version { .. })));
    }

    /// Objects that have some of the fields that are looked at, of any type.
    fn objects() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::from),
            "[a-zA-Z.]{0,8}".prop_map(Value::from),
            Just(json!(DRIVER))
        ];
        leaf.prop_recursive(7, 40, 4, |inner| {
            let names = "spec|devices|config|requests|opaque|driver|parameters|metadata|firstAvailable|name|kind";
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                proptest::collection::btree_map(names, inner, 0..5).prop_map(Value::from_iter),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_request_is_answered_with_its_uid(
            object in objects(), old in objects(), uid in "\\PC{0,40}",
            resource in "resourceclaims|resourceclaimtemplates|deviceclasses|pods", operation in "CREATE|UPDATE|DELETE|X",
        ) {
            let mut request = asked(&resource, "v1", &operation, &object, &old);
            request["request"]["uid"] = json!(uid);
            let answer = answered(&request).to_review();
            prop_assert_eq!(&answer["response"]["uid"], &json!(uid));
            prop_assert!(answer["response"]["allowed"].is_boolean());
        }

        #[test]
        fn foreign_bytes_are_refused_without_a_panic(body in proptest::collection::vec(any::<u8>(), 0..60)) {
            prop_assert!(review(DRIVER, &body).is_err());
        }
    }
}
