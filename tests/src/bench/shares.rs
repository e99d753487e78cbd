//! What sharing costs: a share against a whole GPU, and the memory guard against one core.
use std::{
    collections::BTreeMap,
    fs,
    process::{Child, Command},
    time::{Duration, Instant},
};

use aliquot_nvml::{Nvml, Patience, Session};
use fake_nvml::{Control, Process};
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use kubelet_api::dra::v1::Claim;
use serde_json::{Value, json};

use super::{Driver, Report, measure};
use crate::{
    look::get_at,
    testbed::{DRIVER, NODE, PATIENCE, Result, Testbed},
};

/// As many as a GPU has without a policy.
const SHARES: usize = 10;
const ROUNDS: usize = 100;
/// By each process, in bytes.
const USED: u64 = 4 << 30;
/// How long the guard is watched; its ticks are 2 s apart.
const WATCHED: Duration = Duration::from_secs(20);

const SCRAPES: usize = 20;
const APART: Duration = Duration::from_millis(300);

/// All figures of this part. The driver runs with its defaults.
pub(super) async fn run(testbed: &Testbed, driver: &mut Driver, report: &mut Report) -> Result<()> {
    share_over_whole(testbed, driver, report).await?;
    guard(testbed, driver, report).await
}

/// Ten shares of one GPU, and as often a whole one, by turns.
async fn share_over_whole(testbed: &Testbed, driver: &mut Driver, report: &mut Report) -> Result<()> {
    let wholes = testbed.whole();
    let (first, whole) = (wholes.first().ok_or("no GPU")?, wholes.last().ok_or("no GPU")?);
    let mut shares = Vec::new();
    for number in 0..SHARES {
        shares.push(share(testbed, &format!("ratio-{number}"), first, None).await?);
    }
    let whole = [testbed.allocated("ratio-whole", &[("gpu", whole)]).await?];
    let (mut of_shares, mut of_wholes) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for share in &shares {
            of_shares.push(timed(driver, std::slice::from_ref(share)).await?);
            of_wholes.push(timed(driver, &whole).await?);
            driver.unprepare(&whole).await?;
        }
        driver.unprepare(&shares).await?;
    }
    let (of_shares, of_wholes) = (measure::sorted(of_shares), measure::sorted(of_wholes));
    let (share, whole) = (measure::percentile(&of_shares, 50), measure::percentile(&of_wholes, 50));
    report.add("prepare_share_p50", "ms", share, Some(whole), None);
    report.add("prepare_share_over_whole", "×", share / whole, None, Some(1.2));
    Ok(())
}

async fn timed(driver: &mut Driver, claims: &[Claim]) -> Result<f64> {
    let begun = Instant::now();
    driver.prepare(claims).await?;
    Ok(measure::milliseconds(begun.elapsed()))
}

/// Eight GPUs with ten shares each, and a process in each share: CPU time over that of the same driver without shares.
async fn guard(testbed: &Testbed, driver: &mut Driver, report: &mut Report) -> Result<()> {
    let before = busy(driver).await?;
    let mut users = Users::default();
    let mut claims = Vec::new();
    for (at, device) in testbed.whole().iter().enumerate() {
        for number in 0..SHARES {
            let pod = uuid::Uuid::new_v4().to_string();
            claims.push(share(testbed, &format!("guard-{at}-{number}"), device, Some(&pod)).await?);
            users.start(testbed, at, &pod)?;
        }
    }
    driver.prepare(&claims).await?;
    testbed.node.control(&Control { processes: users.processes.clone(), ..Control::default() })?;
    attributed(testbed, claims.len()).await?;
    let with = busy(driver).await?;
    scrape(testbed, report).await?;
    testbed.node.control(&Control::default())?;
    driver.unprepare(&claims).await?;
    report.add("guard_8x10_of_one_core", "%", (with - before).max(0.0) * 100.0, None, Some(1.0));
    Ok(())
}

/// From a client's connect to the last byte of `/metrics`, with every GPU sampled for each; the floor is that sample, had from
/// the same library.
async fn scrape(testbed: &Testbed, report: &mut Report) -> Result<()> {
    let library = aliquot_nvml::candidates(&testbed.node.path("driver")).into_iter().find(|path| path.is_file());
    let mut nvml = Nvml::new(library.ok_or("no library")?)?;
    nvml.read(Session::Keep, PATIENCE).await?;
    let uuids = testbed.node.profile().gpus.iter().map(|gpu| gpu.uuid.parse());
    let gpus = uuids.collect::<std::result::Result<Vec<_>, _>>()?;
    let mut floor = Vec::with_capacity(SCRAPES);
    for _ in 0..SCRAPES {
        let begun = Instant::now();
        nvml.questions().samples(gpus.clone(), Patience { each: PATIENCE, all: PATIENCE }).await?;
        floor.push(measure::milliseconds(begun.elapsed()));
    }
    let (address, mut took) = (testbed.metrics_address()?, Vec::with_capacity(SCRAPES));
    for _ in 0..SCRAPES {
        // Scrapes that are closer together share a sample.
        tokio::time::sleep(APART).await;
        let begun = Instant::now();
        get_at(&address, "/metrics", "*/*").await?;
        took.push(measure::milliseconds(begun.elapsed()));
    }
    let [took, floor] = [took, floor].map(|all| measure::percentile(&measure::sorted(all), 50));
    report.add("scrape_8x10_p50", "ms", took, Some(floor), Some(5.0));
    Ok(())
}

/// Waits until the guard has traced as many processes to their claims, as none but the first reading costs that.
async fn attributed(testbed: &Testbed, claims: usize) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let used = format!(" {USED}");
    loop {
        let metrics = testbed.metrics().await?;
        let series = metrics.lines().filter(|line| line.starts_with("aliquot_share_memory_used_bytes{"));
        let found = series.filter(|line| line.ends_with(&used)).count();
        if found == claims {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(
                format!("{found} of {claims} processes were attributed; the driver's log:\n{}", testbed.log()).into()
            );
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The share of one core that the driver uses.
async fn busy(driver: &Driver) -> Result<f64> {
    let (begun, start) = (Instant::now(), driver.cpu_time().ok_or("the driver's CPU time can't be read")?);
    tokio::time::sleep(WATCHED).await;
    let end = driver.cpu_time().ok_or("the driver's CPU time can't be read")?;
    Ok(end.saturating_sub(start).as_secs_f64() / begun.elapsed().as_secs_f64())
}

/// An allocated share of the GPU whose whole device is named.
async fn share(testbed: &Testbed, name: &str, whole: &str, pod: Option<&str>) -> Result<Claim> {
    let result = json!({"driver": DRIVER, "pool": format!("{DRIVER}/{NODE}"), "device": format!("{whole}-shared"),
        "request": "gpu", "shareID": uuid::Uuid::new_v4().to_string(),
        "consumedCapacity": {"shares": "1", "memory": "8155Mi"}});
    let claim = testbed.allocated_as(name, json!({"devices": {"results": [result]}})).await?;
    if let Some(uid) = pod {
        let user: Value = json!({"resource": "pods", "name": name, "uid": uid});
        let api: Api<ResourceClaim> = Api::namespaced(testbed.client.clone(), "default");
        let status = Patch::Merge(json!({"status": {"reservedFor": [user]}}));
        api.patch_status(name, &PatchParams::default(), &status).await?;
    }
    Ok(claim)
}

/// Processes that the simulated GPUs list, with a place in the node's procfs.
#[derive(Default)]
struct Users {
    children: Vec<Child>,
    processes: BTreeMap<String, Vec<Process>>,
}

impl Users {
    fn start(&mut self, testbed: &Testbed, gpu: usize, pod: &str) -> Result<()> {
        let child = Command::new("sleep").arg("600").spawn()?;
        let (pid, proc) = (child.id(), testbed.node.path("proc"));
        self.children.push(child);
        fs::create_dir_all(proc.join(pid.to_string()))?;
        fs::copy(format!("/proc/{pid}/stat"), proc.join(format!("{pid}/stat")))?;
        fs::write(proc.join(format!("{pid}/cgroup")), format!("0::/kubepods/besteffort/pod{pod}/c{pid}\n"))?;
        let gpu = testbed.node.profile().gpus.get(gpu).ok_or("no such GPU")?;
        let process = Process { pid, used: Some(USED), graphics: false };
        self.processes.entry(gpu.uuid.clone()).or_default().push(process);
        Ok(())
    }
}

impl Drop for Users {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
