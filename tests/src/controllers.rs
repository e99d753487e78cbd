//! Replicas of the real controller before the API stand-in.
use std::{
    fs::File,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use fake_apiserver::Server;
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    look::get_at,
    node::Artifacts,
    testbed::{DRIVER, PATIENCE, Result, end, rules},
};

/// The token of the controller's account, which may do what `deploy/base/controller-rbac.yaml` says.
pub const ACCOUNT: &str = "aliquot-controller";
const BASE: &str = include_str!("../../deploy/base/controller-rbac.yaml");
const RELEASE: &str = include_str!("../../deploy/components/release-stuck-claims/rbac.yaml");
const WEBHOOK: &str = include_str!("../../deploy/base/webhook.yaml");

/// The API server and where replicas keep their logs.
pub struct Stage {
    /// The API server.
    pub api: Server,
    /// Its client.
    pub client: Client,
    dir: tempfile::TempDir,
    binary: PathBuf,
}

/// One replica. Dropping it kills it.
pub struct Replica {
    child: Child,
    log: PathBuf,
}

impl Stage {
    /// An empty cluster.
    pub async fn start() -> Result<Self> {
        Self::of(Artifacts::find()?.controller()).await
    }

    /// The same with this binary of the controller.
    pub async fn of(binary: PathBuf) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("aliquot").tempdir()?;
        let api = Server::builder().start().await?;
        std::fs::write(dir.path().join("kubeconfig"), api.kubeconfig_with(ACCOUNT))?;
        api.permit(ACCOUNT, rules(BASE, "aliquot-controller")?);
        let mut config = Config::new(api.url().parse()?);
        config.default_retry = false;
        Ok(Self { client: Client::try_from(config)?, api, dir, binary })
    }

    /// Gives the controller's account what component `release-stuck-claims` adds.
    pub fn permit_release(&self) -> Result<()> {
        self.permit(RELEASE, "aliquot-controller-release")
    }

    /// Gives it what the webhook needs, which suites leave off otherwise.
    pub fn permit_webhook(&self) -> Result<()> {
        self.permit(WEBHOOK, "aliquot-webhook")
    }

    fn permit(&self, manifest: &str, role: &str) -> Result<()> {
        let mut all = rules(BASE, "aliquot-controller")?;
        all.extend(rules(manifest, role)?);
        self.api.permit(ACCOUNT, all);
        Ok(())
    }

    /// Starts a replica with more flags; its own come later and win.
    pub fn replica(&self, identity: &str, flags: &[&str]) -> Result<Replica> {
        let log = self.dir.path().join(format!("{identity}.log"));
        let file = File::options().create(true).append(true).open(&log)?;
        let child = Command::new(&self.binary)
            .args(["--http-address=127.0.0.1:0", "--log-format=json", "--namespace=aliquot"])
            .arg(format!("--identity={identity}"))
            .args(flags)
            .env("KUBECONFIG", self.dir.path().join("kubeconfig"))
            .env_remove("POD_NAMESPACE")
            // Several run at once on this machine; a flag counts for more.
            .env("ALIQUOT_WEBHOOK_ADDRESS", "")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()?;
        Ok(Replica { child, log })
    }

    /// Waits until something holds; what the replicas have logged is told where it doesn't.
    pub async fn until(&self, what: &str, holds: impl Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            if Instant::now() > deadline {
                return Err(format!("it did not come to be that {what}; the logs:\n{}", self.logs()).into());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    fn logs(&self) -> String {
        let files = std::fs::read_dir(self.dir.path()).into_iter().flatten().flatten();
        let logs = files.filter(|file| file.path().extension().is_some_and(|extension| extension == "log"));
        logs.filter_map(|file| std::fs::read_to_string(file.path()).ok()).collect()
    }

    /// The Lease's holder; none where it has none.
    pub fn leader(&self) -> Option<String> {
        let lease = self.api.peek("leases", "aliquot", "aliquot-controller")?;
        lease.pointer("/spec/holderIdentity")?.as_str().filter(|holder| !holder.is_empty()).map(ToOwned::to_owned)
    }

    /// Names of the slices that are there.
    pub fn slices(&self) -> Vec<String> {
        let name = |slice: &Value| slice["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        self.api.peek_all("resourceslices").iter().map(name).collect()
    }

    /// The Events of a reason.
    pub fn events(&self, reason: &str) -> Vec<Value> {
        let mut events = self.api.peek_all("events");
        events.retain(|event| event["reason"] == reason);
        events
    }
}

impl Replica {
    /// Ends it as nothing but SIGKILL does.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Ends it as SIGTERM does.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        end(&self.child)?;
        Ok(self.child.wait()?)
    }

    /// Waits for it to end by itself.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        Ok(self.child.wait()?)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Where it serves metrics and probes; none before it does.
    pub fn address(&self) -> Option<String> {
        let log = self.log();
        let mut lines = log.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        // The webhook has an address too.
        let line = lines.find(|line| line["message"] == "serving metrics and probes");
        line.and_then(|line| line["address"].as_str().map(ToOwned::to_owned))
    }

    /// The status and body of a page; an error while it isn't served.
    pub async fn get(&self, path: &str) -> Result<(u16, String)> {
        let address = self.address().ok_or("the log names no address")?;
        let text = get_at(&address, path, "*/*").await?;
        let (head, body) = text.split_once("\r\n\r\n").ok_or("no HTTP")?;
        let status = head.split_whitespace().nth(1).ok_or("no HTTP")?.parse()?;
        Ok((status, body.to_owned()))
    }

    /// A metric, or one line of it; none where it isn't told.
    pub async fn metric(&self, series: &str) -> Result<Option<f64>> {
        let (_, body) = self.get("/metrics").await?;
        let line = body.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        Ok(line.map(str::parse).transpose()?)
    }

    /// Waits for a metric to have a value.
    pub async fn until_metric(&self, series: &str, value: f64) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = self.metric(series).await;
            if matches!(&now, Ok(Some(now)) if (now - value).abs() < f64::EPSILON) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("{series} is {now:?}, and not {value}; the log:\n{}", self.log()).into());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until everything has been read and judged once.
    pub async fn ready(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !matches!(self.get("/readyz").await, Ok((200, _))) {
            if Instant::now() > deadline {
                return Err(format!("it doesn't become ready; the log:\n{}", self.log()).into());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A UID that is the same for the same number, as nothing here needs chance.
pub fn uid(kind: u16, number: usize) -> String {
    format!("{number:08x}-0000-4000-8000-{kind:04x}{number:08x}")
}

/// A Node as the kubelet writes it, as far as its size matters.
pub fn node(name: &str, uid: &str) -> Value {
    json!({"metadata": {"name": name, "uid": uid, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}},
        "spec": {}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}})
}

/// A slice of a node with these GPUs, each whole, shared and for administration.
pub fn slice(driver: &str, node: &str, owner: &str, gpus: &[&str]) -> Value {
    let device = |name: String| {
        json!({"name": name, "attributes": {"uuid": {"string": "GPU-a669635e-6dfb-38a3-2f06-448166423d32"},
            "productName": {"string": "NVIDIA H100 80GB HBM3"}}, "capacity": {"memory": {"value": "81559Mi"}}})
    };
    let parts = |gpu: &&str| ["", "-shared", "-admin"].map(|part| device(format!("{gpu}{part}")));
    let devices: Vec<Value> = gpus.iter().flat_map(parts).collect();
    let name = format!("{node}-{driver}");
    json!({"metadata": {"name": name, "uid": format!("uid-{name}"),
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": node, "uid": owner}]},
        "spec": {"driver": driver, "nodeName": node, "devices": devices,
            "pool": {"name": format!("{driver}/{node}"), "generation": 1, "resourceSliceCount": 1}}})
}

/// A Pod that is there.
pub fn pod(name: &str, uid: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "default", "uid": uid}, "spec": {"nodeName": "n1"}})
}

/// A claim with a GPU of a node, reserved for pods of these names and UIDs.
pub fn claim(name: &str, uid: &str, (node, device): (&str, &str), pods: &[(&str, &str)]) -> Value {
    let reserved: Vec<Value> =
        pods.iter().map(|(name, uid)| json!({"resource": "pods", "name": name, "uid": uid})).collect();
    let result = json!({"request": "gpu", "driver": DRIVER, "pool": format!("{DRIVER}/{node}"), "device": device});
    json!({"metadata": {"name": name, "namespace": "default", "uid": uid,
            "finalizers": ["resource.kubernetes.io/delete-protection"]},
        "spec": {"devices": {"requests": [{"name": "gpu", "exactly": {"deviceClassName": "gpu.aliquot.dev"}}]}},
        "status": {"allocation": {"devices": {"results": [result]}}, "reservedFor": reserved}})
}
