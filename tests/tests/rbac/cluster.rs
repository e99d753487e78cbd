//! A real API server: named by `ALIQUOT_TEST_KUBECONFIG`, with a namespace and roles of the test's own, which go with it.
use std::{panic::AssertUnwindSafe, path::Path};

use aliquot_tests::{
    skip,
    testbed::{PATIENCE, Result},
};
use futures::FutureExt as _;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use kube::{
    Client, Config,
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use tokio::time::Instant;

/// The cluster, and what the test has made there.
pub(super) struct Cluster {
    admin: Client,
    kubeconfig: Kubeconfig,
    /// The test's namespace.
    pub(super) namespace: String,
    /// Paths of what isn't in the namespace.
    made: Vec<String>,
}

/// The one account in the namespace, as in the deployment.
pub(super) const ACCOUNT: &str = "aliquot-driver";

impl Cluster {
    /// Runs a test in a fresh namespace with the account in it, where a cluster was named, and takes all of it away again.
    pub(super) async fn run(purpose: &str, test: impl AsyncFnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let Some(kubeconfig) = skip::cluster() else { return Ok(()) };
        let mut cluster = Self::with_account(&kubeconfig, purpose).await?;
        let result = AssertUnwindSafe(test(&mut cluster)).catch_unwind().await;
        cluster.clean().await?;
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    async fn with_account(kubeconfig: &Path, purpose: &str) -> Result<Self> {
        let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
        let config = Config::from_custom_kubeconfig(kubeconfig.clone(), &KubeConfigOptions::default()).await?;
        let namespace = format!("aliquot-test-{purpose}-{}", std::process::id());
        let mut cluster = Self { admin: Client::try_from(config)?, kubeconfig, namespace, made: Vec::new() };
        let (namespace, path) = (cluster.namespace.clone(), "/api/v1/namespaces");
        cluster.make(path, json!({"metadata": {"name": namespace}})).await?;
        let accounts = format!("{path}/{namespace}/serviceaccounts");
        let account = json!({"metadata": {"name": ACCOUNT}});
        let (code, answer) = cluster.asked(&cluster.admin, Method::POST, &accounts, Some(&account)).await?;
        assert_eq!(code, StatusCode::CREATED, "{answer}");
        Ok(cluster)
    }

    /// Makes an object that goes with the test.
    pub(super) async fn make(&mut self, path: &str, object: Value) -> Result<()> {
        let (code, answer) = self.asked(&self.admin, Method::POST, path, Some(&object)).await?;
        if code != StatusCode::CREATED {
            return Err(format!("{path}: {answer}").into());
        }
        self.made.push(format!("{path}/{}", answer["metadata"]["name"].as_str().unwrap_or_default()));
        Ok(())
    }

    /// A role with these rules, given to the account.
    pub(super) async fn grant(&mut self, rules: &Value) -> Result<()> {
        let (name, group) = (self.namespace.clone(), "/apis/rbac.authorization.k8s.io/v1");
        self.make(&format!("{group}/clusterroles"), json!({"metadata": {"name": name}, "rules": rules})).await?;
        let binding = json!({"metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": name}]});
        self.make(&format!("{group}/clusterrolebindings"), binding).await
    }

    /// Gives that role other rules.
    pub(super) async fn regrant(&self, rules: &Value) -> Result<()> {
        let path = format!("/apis/rbac.authorization.k8s.io/v1/clusterroles/{}", self.namespace);
        let role = json!({"metadata": {"name": self.namespace}, "rules": rules});
        let (code, answer) = self.asked(&self.admin, Method::PUT, &path, Some(&role)).await?;
        if code.is_success() { Ok(()) } else { Err(answer.to_string().into()) }
    }

    /// The name of a node.
    pub(super) async fn node(&self) -> Result<String> {
        let (_, nodes) = self.asked(&self.admin, Method::GET, "/api/v1/nodes", None).await?;
        Ok(nodes["items"][0]["metadata"]["name"].as_str().ok_or("the cluster has no node")?.to_owned())
    }

    /// Whoever may do everything.
    pub(super) fn admin(&self) -> &Client {
        &self.admin
    }

    /// The account, with a token that is bound to a node, or to none.
    pub(super) async fn account(&self, node: Option<&str>) -> Result<Client> {
        let path = format!("/api/v1/namespaces/{}/serviceaccounts/{ACCOUNT}/token", self.namespace);
        let mut request = json!({"spec": {"expirationSeconds": 600}});
        if let Some(node) = node {
            let (_, found) = self.asked(&self.admin, Method::GET, &format!("/api/v1/nodes/{node}"), None).await?;
            request["spec"]["boundObjectRef"] =
                json!({"apiVersion": "v1", "kind": "Node", "name": node, "uid": found["metadata"]["uid"]});
        }
        let (code, answer) = self.asked(&self.admin, Method::POST, &path, Some(&request)).await?;
        let token = answer["status"]["token"].as_str().ok_or_else(|| format!("{code}: {answer}"))?;
        let mut kubeconfig = self.kubeconfig.clone();
        for user in &mut kubeconfig.auth_infos {
            user.auth_info = Some(serde_json::from_value(json!({ "token": token }))?);
        }
        Ok(Client::try_from(Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?)?)
    }

    /// What is answered to a request.
    pub(super) async fn asked(
        &self,
        client: &Client,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Value)> {
        let content = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let request = Request::builder().method(method).uri(path).header("Content-Type", content);
        let (head, body) = client.send(request.body(Body::from(body))?).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        // The answer to a watch is no single object.
        Ok((head.status, serde_json::from_slice(&body).unwrap_or_default()))
    }

    /// Asks until the answer is as wanted: API servers learn of roles and policies by watch.
    pub(super) async fn until(
        &self,
        client: &Client,
        (method, path, body): (Method, &str, Option<&Value>),
        wanted: impl Fn(StatusCode) -> bool,
    ) -> Result<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (code, answer) = self.asked(client, method.clone(), path, body).await?;
            if wanted(code) {
                return Ok(answer);
            }
            if Instant::now() > deadline {
                return Err(format!("{method} {path}: {code} {answer}").into());
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    async fn clean(self) -> Result<()> {
        for path in self.made.iter().rev() {
            self.asked(&self.admin, Method::DELETE, path, None).await?;
        }
        Ok(())
    }
}
