//! What watching costs: `cargo test -p aliquot-driver --lib guard::measure -- --ignored --nocapture`.
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::{
    testing::{Api, Sleeper, gib, gpu, holding},
    *,
};

const GPUS: u32 = 8;
const SHARES: u32 = 10;
const TICKS: u32 = 200;

/// Lists the same processes each time.
struct Full(Vec<GpuReading>);

impl Processes for Full {
    async fn read(&self, _: Vec<GpuUuid>) -> Result<Vec<GpuReading>, String> {
        Ok(self.0.clone())
    }
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap(), u32::try_from(time.tv_nsec).unwrap())
}

/// The start times come from the kernel's procfs, by a link; the pods from the tree, since no test is in one.
#[tokio::test]
#[ignore = "a measurement"]
async fn eight_gpus_with_ten_shares_each() {
    let children: Vec<Sleeper> = (0..GPUS * SHARES).map(|_| Sleeper::start()).collect();
    std::thread::sleep(Duration::from_millis(50));
    let pods = testing::FakeProc::new();
    let mut holdings = Vec::new();
    let mut readings = Vec::new();
    for index in 0..GPUS {
        let mut processes = Vec::new();
        for share in 0..SHARES {
            let (name, pid) = (format!("{index}-{share}"), children[(index * SHARES + share) as usize].pid());
            pods.place(pid, &name);
            pods.link_stat(pid);
            processes.push(GpuProcess { pid: Pid(pid), used: Some(gib(7)) });
            holdings.push(holding(&name, index, 8, &[&name]));
        }
        readings.push((gpu(index), Ok(processes)));
    }
    let (_sender, held) = watch::channel(Vec::new());
    let (usages, usage) = watch::channel(Usage::default());
    let roots = Roots { proc: pods.root().to_owned(), ..crate::roots::tests::roots("/d", "/d") };
    let settings = Settings { roots, interval: INTERVAL, driver: "gpu.example.com".into(), node: "node-1".into() };
    let mut guard = Guard::new(settings, Api::default().client(), Full(readings), held, usages);
    guard.tick(&holdings).await;
    let begun = cpu();
    for _ in 0..TICKS {
        guard.tick(&holdings).await;
    }
    let each = cpu().checked_sub(begun).unwrap() / TICKS;
    let attributed = usage.borrow().shares.values().filter(|share| share.used == gib(7)).count();
    assert_eq!(attributed, (GPUS * SHARES) as usize);
    let percent = each.as_secs_f64() / INTERVAL.as_secs_f64() * 100.0;
    println!("{attributed} processes: {each:?} of CPU time per tick, {percent:.3} % of a core at {INTERVAL:?}");
}
