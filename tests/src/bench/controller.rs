//! What the controller costs in a large cluster.
use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::Report;
use crate::{
    controllers::{Replica, Stage, claim, node, pod, slice, uid},
    testbed::{DRIVER, Result},
};

/// How large.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Each with eight GPUs and one slice.
    pub nodes: usize,
    /// Each with a GPU, and a pod that uses it.
    pub claims: usize,
    /// Nodes of these that are gone.
    pub dead: usize,
    /// Claims of these whose pod is gone.
    pub stuck: usize,
}

/// What it came to.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    /// Until everything had been read and judged.
    pub first_look: Duration,
    /// Until what was stale was deleted and what was stuck was told, graces of one second included.
    pub acted: Duration,
    /// At rest, in MiB.
    pub rss: f64,
    /// The most that it ever was, in MiB.
    pub peak: f64,
    /// Objects in the largest page that a list could have had.
    pub page: usize,
    /// Requests in the time that it was watched at rest, by an hour.
    pub hourly: f64,
    /// How many of them wrote something other than the Lease.
    pub writes: usize,
}

/// What is promised of 50,000 claims and 5,000 nodes.
const LARGE: Scale = Scale { nodes: 5_000, claims: 50_000, dead: 50, stuck: 100 };
/// A little longer than a watch lasts, so that each is begun anew once.
const REST: Duration = Duration::from_mins(5);
/// For everything that is waited for.
const PATIENCE: Duration = Duration::from_mins(5);

/// Measures this binary.
pub async fn run(binary: PathBuf) -> Result<Report> {
    let figures = measure(Stage::of(binary).await?, LARGE, REST).await?;
    let mut report = Report::default();
    report.add("controller_first_sweep", "s", figures.first_look.as_secs_f64(), None, Some(10.0));
    report.add("controller_acted", "s", figures.acted.as_secs_f64(), None, None);
    report.add("controller_rss", "MiB", figures.rss, None, Some(150.0));
    report.add("controller_rss_peak", "MiB", figures.peak, None, Some(150.0));
    #[allow(clippy::cast_precision_loss, reason = "a page is small")]
    report.add("controller_list_page", "", figures.page as f64, None, Some(500.0));
    report.add("controller_requests_hourly", "", figures.hourly, None, Some(300.0));
    Ok(report)
}

/// Fills a cluster, starts one replica, lets it act, and watches it at rest for so long.
pub async fn measure(stage: Stage, scale: Scale, rest: Duration) -> Result<Figures> {
    fill(&stage, scale);
    let begun = Instant::now();
    let replica = stage.replica("a", &["--slice-grace=1s", "--stuck-after=1s"])?;
    until("it has read everything", || async { matches!(replica.get("/readyz").await, Ok((200, _))) }).await?;
    let first_look = replica.metric("aliquot_controller_first_look_seconds").await?.ok_or("no time is told")?;
    let page = largest_page(&stage, scale)?;
    until("it has acted", || async { acted(&stage, scale) }).await?;
    let acted = begun.elapsed();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (before, writes) = (requests(&stage), other_writes(&stage));
    tokio::time::sleep(rest).await;
    let seen = requests(&stage) - before;
    #[allow(clippy::cast_precision_loss, reason = "there are few")]
    let hourly = seen as f64 * 3600.0 / rest.as_secs_f64();
    Ok(Figures {
        first_look: Duration::from_secs_f64(first_look),
        acted,
        rss: memory(&replica, "VmRSS:")?,
        peak: memory(&replica, "VmHWM:")?,
        page,
        hourly,
        writes: other_writes(&stage) - writes,
    })
}

/// As large as a cluster's own objects are, managers' fields and all.
fn fill(stage: &Stage, scale: Scale) {
    let Scale { nodes, claims, dead, stuck } = scale;
    let names: Vec<String> = (0..nodes).map(|number| format!("node-{number:05}")).collect();
    let gpus: Vec<String> = (0..8).map(|gpu| format!("gpu-0000-{:02x}-00", 0x10 + gpu)).collect();
    let gpus: Vec<&str> = gpus.iter().map(String::as_str).collect();
    let alive = names.iter().enumerate().skip(dead);
    stage.api.seed("nodes", alive.map(|(number, name)| managed(node(name, &uid(1, number)))));
    let all = names.iter().enumerate();
    stage.api.seed("resourceslices", all.map(|(number, name)| managed(slice(DRIVER, name, &uid(1, number), &gpus))));
    let living = (stuck..claims).map(|number| managed(pod(&format!("training-job-{number:06}"), &uid(2, number))));
    stage.api.seed("pods", living);
    let claim = |number: usize| {
        let (pod, pod_uid) = (format!("training-job-{number:06}"), uid(2, number));
        let node = dead + number % (nodes - dead);
        let at =
            (names.get(node).map_or("", String::as_str), gpus.get(number / nodes % 8).copied().unwrap_or_default());
        managed(claim(&format!("{pod}-gpu-x7k2p"), &uid(3, number), at, &[(&pod, &pod_uid)]))
    };
    stage.api.seed("resourceclaims", (0..claims).map(claim));
}

fn managed(mut object: Value) -> Value {
    object["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
    object["metadata"]["annotations"] = json!({"resource.kubernetes.io/pod-claim-name": "gpu"});
    let fields = json!({"f:metadata": {"f:annotations": {".": {}}}, "f:spec": {"f:devices": {"f:requests": {".": {},
        "k:{\"name\":\"gpu\"}": {".": {}, "f:exactly": {".": {}, "f:deviceClassName": {}, "f:count": {}}}}}}});
    object["metadata"]["managedFields"] = json!([
        {"manager": "kube-controller-manager", "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": fields},
        {"manager": "kube-scheduler", "operation": "Update", "subresource": "status", "fieldsV1": fields}]);
    object
}

fn count(stage: &Stage, verb: &str, resource: &str) -> usize {
    stage.api.requests().get(&(verb.to_owned(), resource.to_owned())).copied().unwrap_or_default()
}

fn acted(stage: &Stage, scale: Scale) -> bool {
    count(stage, "delete", "resourceslices") >= scale.dead
        && count(stage, "create", "events") >= scale.dead + scale.stuck
}

fn requests(stage: &Stage) -> usize {
    stage.api.requests().values().sum()
}

fn other_writes(stage: &Stage) -> usize {
    stage.api.writes() - count(stage, "update", "leases") - count(stage, "create", "leases")
}

/// Objects over lists, rounded up, of the kind where that is the most.
fn largest_page(stage: &Stage, scale: Scale) -> Result<usize> {
    let kinds = [
        ("resourceclaims", scale.claims),
        ("pods", scale.claims - scale.stuck),
        ("nodes", scale.nodes - scale.dead),
        ("resourceslices", scale.nodes),
    ];
    let pages = kinds.map(|(kind, objects)| objects.div_ceil(count(stage, "list", kind).max(1)));
    pages.into_iter().max().ok_or_else(|| "nothing was listed".into())
}

async fn until<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        if Instant::now() > deadline {
            return Err(format!("it did not come to be that {what}").into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// In MiB.
fn memory(replica: &Replica, field: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{}/status", replica.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).ok_or("the kernel tells no memory")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}
