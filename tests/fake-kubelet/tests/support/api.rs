//! The little of an API server that a kubelet asks for.
use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use http::{Method, Request, Response, StatusCode};
use kube::{Client, client::Body};
use serde_json::{Value, json};

use super::DRIVER;

/// Claims by `namespace/name`, and what was asked to be wiped.
#[derive(Clone, Default)]
pub(crate) struct Api {
    claims: Arc<Mutex<BTreeMap<String, Value>>>,
    wipes: Arc<Mutex<Vec<String>>>,
}

impl Api {
    pub(crate) fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let (status, body) = api.answer(&request);
            let response = Response::builder().status(status).body(Body::from(body.to_string().into_bytes())).unwrap();
            async move { Ok::<_, Infallible>(response) }
        });
        Client::new(service, "default")
    }

    fn answer(&self, request: &Request<Body>) -> (StatusCode, Value) {
        let path = request.uri().path();
        let not_found = || {
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "NotFound",
                "message": format!("{path} not found"), "code": 404});
            (StatusCode::NOT_FOUND, status)
        };
        if request.method() == Method::DELETE && path == "/apis/resource.k8s.io/v1/resourceslices" {
            let query = request.uri().query().unwrap_or_default();
            let query = query.replace("%3D", "=").replace("%2C", ",");
            self.wipes.lock().unwrap().push(query);
            return (
                StatusCode::OK,
                json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}),
            );
        }
        let Some(rest) = path.strip_prefix("/apis/resource.k8s.io/v1/namespaces/") else {
            return not_found();
        };
        let key = rest.replace("/resourceclaims/", "/");
        let claims = self.claims.lock().unwrap();
        claims.get(&key).map_or_else(not_found, |claim| (StatusCode::OK, claim.clone()))
    }

    /// What was wiped, as query strings.
    pub(crate) fn wiped(&self) -> Vec<String> {
        self.wipes.lock().unwrap().clone()
    }

    /// A claim with one device of this driver per request, reserved for pods.
    pub(crate) fn allocate(&self, name: &str, uid: &str, pods: &[&str], requests: &[&str]) {
        let results: Vec<_> = requests.iter().map(|r| result(r, DRIVER)).collect();
        self.put(name, uid, pods, &json!({"devices": {"results": results}}));
    }

    pub(crate) fn put(&self, name: &str, uid: &str, pods: &[&str], allocation: &Value) {
        let reserved: Vec<_> = pods.iter().map(|uid| json!({"resource": "pods", "name": uid, "uid": uid})).collect();
        let claim = json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
            "metadata": {"namespace": "ns", "name": name, "uid": uid},
            "spec": {}, "status": {"reservedFor": reserved, "allocation": allocation},
        });
        self.claims.lock().unwrap().insert(format!("ns/{name}"), claim);
    }
}

pub(crate) fn result(request: &str, driver: &str) -> Value {
    json!({"request": request, "driver": driver, "pool": "pool", "device": format!("dev-{request}")})
}
