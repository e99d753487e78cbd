//! Small values for the tests of this module.
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::{fs::symlink, process::ExitStatusExt},
    path::Path,
    process::{Child, Command},
    sync::{Arc, Mutex},
    time::Duration,
};

use aliquot_model::{GpuUuid, Memory};
use dra_plugin::{ClaimRef, PodRef};
use http::{Method, Request, Response};
use kube::client::Body;
use serde_json::{Value, json};

use super::{
    attribute::Located,
    cgroup::pod_of,
    process::{Origin, Procfs, Ticks},
    types::{GpuProcess, GuardMode, GuardPolicy, Holding, Key, Pid},
};

pub(super) fn gib(count: u64) -> Memory {
    Memory::from_bytes(count << 30)
}

pub(super) fn gpu(index: u32) -> GpuUuid {
    format!("GPU-{index}").parse().unwrap()
}

/// Its UID is `uid-<name>`.
pub(super) fn claim(name: &str) -> ClaimRef {
    ClaimRef::new("team", name, format!("uid-{name}")).unwrap()
}

pub(super) fn pod(uid: &str) -> PodRef {
    PodRef { name: format!("pod-{uid}"), uid: uid.to_owned() }
}

pub(super) fn holding(name: &str, index: u32, limit_gib: u64, pods: &[&str]) -> Holding {
    Holding {
        claim: claim(name),
        gpu: gpu(index),
        limit: gib(limit_gib),
        guard: GuardPolicy { mode: GuardMode::Observe, grace: Duration::from_secs(30) },
        pods: pods.iter().map(|uid| pod(uid)).collect(),
    }
}

pub(super) fn key(index: u32, claims: &[&str]) -> Key {
    Key { gpu: gpu(index), claims: claims.iter().map(|name| claim(name)).collect::<BTreeSet<_>>() }
}

/// A process of the pod with UID `pod`, or of the host.
pub(super) fn process(pid: u32, pod: &str, used_gib: Option<u64>) -> (GpuProcess, Origin) {
    let origin = Origin { start: Ticks(u64::from(pid)), pod: pod_of(&format!("0::/kubepods/pod{pod}/c")) };
    (GpuProcess { pid: Pid(pid), used: used_gib.map(gib) }, origin)
}

pub(super) fn located(index: u32, processes: Vec<(GpuProcess, Origin)>) -> Located {
    Located { gpu: gpu(index), processes, untraced: Vec::new() }
}

/// An API server with some claims, which takes events and evictions.
#[derive(Clone, Default)]
pub(super) struct Api {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    claims: BTreeMap<String, Value>,
    /// What to answer to a path that contains the text.
    failure: Option<(String, u16, Value)>,
    requests: Vec<(String, Value)>,
}

impl Api {
    pub(super) fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect_bytes().await?;
                let (status, answer) = api.answer(&head.method, head.uri.path(), &body);
                let answer = Body::from(serde_json::to_vec(&answer).unwrap());
                Ok::<_, kube::Error>(Response::builder().status(status).body(answer).unwrap())
            }
        });
        kube::Client::new(service, "default")
    }

    pub(super) fn claim(&self, name: &str, uid: &str, pods: &[&str]) {
        let reserved = pods.iter().map(|uid| json!({"resource": "pods", "name": format!("pod-{uid}"), "uid": uid}));
        let claim = json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
            "metadata": {"namespace": "team", "name": name, "uid": uid}, "spec": {},
            "status": {"reservedFor": reserved.collect::<Vec<_>>()},
        });
        let path = format!("/apis/resource.k8s.io/v1/namespaces/team/resourceclaims/{name}");
        self.state.lock().unwrap().claims.insert(path, claim);
    }

    pub(super) fn fail(&self, path: &str, code: u16, message: &str) {
        self.fail_with(path, json!({"kind": "Status", "status": "Failure", "code": code, "message": message}));
    }

    pub(super) fn fail_with(&self, path: &str, status: Value) {
        let code = u16::try_from(status["code"].as_u64().unwrap()).unwrap();
        self.state.lock().unwrap().failure = Some((path.to_owned(), code, status));
    }

    pub(super) fn heal(&self) {
        self.state.lock().unwrap().failure = None;
    }

    /// Method and path of each.
    pub(super) fn requests(&self) -> Vec<String> {
        self.state.lock().unwrap().requests.iter().map(|(line, _)| line.clone()).collect()
    }

    /// What was sent to paths that contain `text`.
    pub(super) fn sent(&self, text: &str) -> Vec<Value> {
        let state = self.state.lock().unwrap();
        state.requests.iter().filter(|(line, _)| line.contains(text)).map(|(_, body)| body.clone()).collect()
    }

    fn answer(&self, method: &Method, path: &str, body: &[u8]) -> (u16, Value) {
        let mut state = self.state.lock().unwrap();
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        state.requests.push((format!("{method} {path}"), body.clone()));
        if let Some((text, code, status)) = &state.failure
            && path.contains(text)
        {
            return (*code, status.clone());
        }
        if path.ends_with("/eviction") {
            return (201, json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}));
        }
        if path.contains("/events") {
            return (201, body);
        }
        state.claims.get(path).map_or_else(
            || {
                (
                    404,
                    json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound", "message": path}),
                )
            },
            |claim| (200, claim.clone()),
        )
    }
}

/// A procfs in which real processes are in the cgroups of pods.
pub(super) struct FakeProc {
    dir: tempfile::TempDir,
}

impl FakeProc {
    pub(super) fn new() -> Self {
        let proc = Self { dir: tempfile::tempdir().unwrap() };
        proc.link_self("/proc/self");
        proc
    }

    pub(super) fn root(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn procfs(&self) -> Procfs {
        // The cgroups are those of this tree, wherever the tests run.
        Procfs::open(self.root(), Some(Path::new("/")))
    }

    /// Where the tree says that its reader is.
    pub(super) fn link_self(&self, place: &str) {
        let link = self.root().join("self");
        let _ = fs::remove_file(&link);
        symlink(place, link).unwrap();
    }

    /// Puts a process into a pod's cgroup, with its real start time if there is such a process.
    pub(super) fn place(&self, pid: u32, pod: &str) {
        let dir = self.root().join(pid.to_string());
        fs::create_dir_all(&dir).unwrap();
        if let Ok(stat) = fs::read(format!("/proc/{pid}/stat")) {
            fs::write(dir.join("stat"), stat).unwrap();
        }
        fs::write(dir.join("cgroup"), format!("0::/kubepods/burstable/pod{pod}/c\n")).unwrap();
    }
}

/// A child that does nothing, and ends with the test.
pub(super) struct Sleeper(Child);

impl Sleeper {
    pub(super) fn start() -> Self {
        Self(Command::new("sleep").arg("600").spawn().unwrap())
    }

    pub(super) fn pid(&self) -> u32 {
        self.0.id()
    }

    pub(super) fn is_alive(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    /// Waits for it to end by SIGKILL.
    pub(super) fn was_killed(&mut self) -> bool {
        self.0.wait().unwrap().signal() == Some(9)
    }

    pub(super) fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.end();
    }
}
