//! The guard as a whole, with real processes, a procfs that puts them into pods, and a stand-in for the API server.
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;

use super::{
    testing::{Api, FakeProc, Sleeper, gib, gpu, holding, key},
    *,
};
use crate::notices::Notice;

/// Answers what it was told last, and counts.
#[derive(Clone)]
struct Fake(Arc<Mutex<Answer>>);

type Answer = (Result<Vec<GpuReading>, String>, usize);

impl Fake {
    fn say(&self, answer: Result<Vec<GpuReading>, String>) {
        self.0.lock().unwrap().0 = answer;
    }

    fn uses(&self, uses: &[(u32, u64)]) {
        let processes = uses.iter().map(|(pid, used)| GpuProcess { pid: Pid(*pid), used: Some(gib(*used)) });
        self.say(Ok(vec![(gpu(0), Ok(processes.collect()))]));
    }

    fn reads(&self) -> usize {
        self.0.lock().unwrap().1
    }
}

impl Default for Fake {
    fn default() -> Self {
        Self(Arc::new(Mutex::new((Ok(Vec::new()), 0))))
    }
}

impl Processes for Fake {
    async fn read(&self, _: Vec<GpuUuid>) -> Result<Vec<GpuReading>, String> {
        let mut state = self.0.lock().unwrap();
        state.1 += 1;
        state.0.clone()
    }
}

struct Node {
    api: Api,
    proc: FakeProc,
    fake: Fake,
    holdings: watch::Sender<Vec<Holding>>,
    usage: watch::Receiver<Usage>,
    told: mpsc::Receiver<Notice>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Node {
    fn start() -> Self {
        let (api, proc, fake) = (Api::default(), FakeProc::new(), Fake::default());
        let (holdings, held) = watch::channel(Vec::new());
        let (usages, usage) = watch::channel(Usage::default());
        let (notices, told) = Notices::new();
        let (driver, node) = ("gpu.example.com".to_owned(), "node-1".to_owned());
        let (procfs, turn) = (proc.procfs(), Turn::open(&proc.root().join("run"), "guard").unwrap());
        let settings = Settings { procfs, turn, interval: INTERVAL, driver, node, notices };
        let guard = Guard::new(settings, api.client(), fake.clone(), held, usages);
        let stop = CancellationToken::new();
        let task = tokio::spawn(guard.run(stop.clone()));
        Self { api, proc, fake, holdings, usage, told, stop, task }
    }

    /// A child in a pod, old enough to have been there when the GPU is read.
    fn child(&self, pod: &str) -> Sleeper {
        let child = Sleeper::start();
        self.proc.place(child.pid(), pod);
        std::thread::sleep(Duration::from_millis(30));
        child
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

fn held(mode: GuardMode, pods: &[&str]) -> Holding {
    Holding { guard: GuardPolicy { mode, grace: Duration::from_secs(30) }, ..holding("a", 0, 8, pods) }
}

async fn seconds(count: u64) {
    tokio::time::sleep(Duration::from_secs(count)).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_read_without_a_holding() {
    let node = Node::start();
    seconds(60).await;
    assert_eq!(node.fake.reads(), 0);
    node.fake.uses(&[]);
    node.holdings.send_replace(vec![held(GuardMode::Kill, &["p"])]);
    seconds(9).await;
    assert_eq!(node.fake.reads(), 5);
    node.holdings.send_replace(vec![]);
    seconds(60).await;
    assert_eq!((node.fake.reads(), node.usage.borrow().shares.len()), (5, 0));
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_nobody_can_change_the_holdings_any_more() {
    let node = Node::start();
    node.fake.uses(&[]);
    node.holdings.send_replace(vec![held(GuardMode::Kill, &["p"])]);
    seconds(5).await;
    drop(node.holdings);
    node.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_largest_process_of_a_claim_over_its_share_is_killed_and_nobody_else() {
    let node = Node::start();
    let (mut small, mut large) = (node.child("p"), node.child("p"));
    let (mut stranger, mut host) = (node.child("x"), Sleeper::start());
    node.api.claim("a", "uid-a", &["p"]);
    node.fake.uses(&[(small.pid(), 3), (large.pid(), 6), (stranger.pid(), 50), (host.pid(), 60)]);
    node.holdings.send_replace(vec![held(GuardMode::Kill, &["p"])]);
    seconds(29).await;
    assert!(large.is_alive());
    {
        let usage = node.usage.borrow();
        assert_eq!(usage.shares[&key(0, &["a"])].used, gib(9));
        assert!(usage.shares[&key(0, &["a"])].over_since.is_some());
        // The host's process has no place in this procfs.
        assert_eq!((usage.unattributed[&gpu(0)], usage.blind), (gib(110), None));
    }
    seconds(2).await;
    assert!(large.was_killed());
    node.fake.uses(&[(small.pid(), 3), (stranger.pid(), 50)]);
    seconds(90).await;
    assert!(small.is_alive() && stranger.is_alive() && host.is_alive());
    assert_eq!(node.usage.borrow().actions, Actions { killed: 1, ..Actions::default() });
    assert_eq!(node.api.sent("events").len(), 1);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_second_claim_that_the_pod_came_to_later_counts_before_it_is_accused() {
    let node = Node::start();
    let mut child = node.child("p");
    node.api.claim("a", "uid-a", &["p"]);
    node.api.claim("b", "uid-b", &["q", "p"]);
    node.fake.uses(&[(child.pid(), 12)]);
    // When b was prepared, only q was known.
    let second = Holding { guard: held(GuardMode::Kill, &[]).guard, ..holding("b", 0, 8, &["q"]) };
    node.holdings.send_replace(vec![held(GuardMode::Kill, &["p"]), second]);
    seconds(120).await;
    assert!(child.is_alive() && node.api.sent("events").is_empty());
    assert_eq!(node.usage.borrow().shares[&key(0, &["a", "b"])].over_since, None);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn without_the_api_server_nobody_is_accused_and_later_the_verdict_follows() {
    let node = Node::start();
    let mut child = node.child("p");
    node.api.fail("resourceclaims", 500, "no");
    node.fake.uses(&[(child.pid(), 12)]);
    node.holdings.send_replace(vec![held(GuardMode::Kill, &["p"])]);
    seconds(300).await;
    assert!(child.is_alive() && node.api.sent("events").is_empty());
    node.api.heal();
    node.api.claim("a", "uid-a", &["p"]);
    seconds(20).await;
    assert!(child.was_killed());
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_gpu_that_cannot_be_read_is_unread_and_accuses_nobody() {
    let node = Node::start();
    let child = node.child("p");
    node.api.claim("a", "uid-a", &["p"]);
    node.holdings.send_replace(vec![held(GuardMode::Observe, &["p"])]);
    for round in 0..20 {
        node.fake.uses(&[(child.pid(), 12)]);
        seconds(20).await;
        node.fake.say(if round % 2 == 0 { Err("NVML hangs".into()) } else { Ok(vec![(gpu(0), Err("lost".into()))]) });
        seconds(4).await;
        assert_eq!(node.usage.borrow().unread, BTreeSet::from([gpu(0)]));
        assert!(node.usage.borrow().shares.is_empty());
    }
    assert!(node.api.requests().is_empty());
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_guard_that_finds_none_of_the_processes_counts_them_and_says_that_it_is_blind() {
    let mut node = Node::start();
    let mut child = Sleeper::start();
    node.api.claim("a", "uid-a", &["p"]);
    node.fake.uses(&[(child.pid(), 12)]);
    node.holdings.send_replace(vec![held(GuardMode::Kill, &["p"])]);
    seconds(1).await;
    assert_eq!(node.usage.borrow().unattributed[&gpu(0)], gib(0), "it may have ended");
    seconds(9).await;
    {
        let usage = node.usage.borrow();
        assert_eq!((usage.unattributed[&gpu(0)], usage.blind), (gib(12), Some(Blind::Strangers)));
    }
    assert_eq!(node.told.try_recv().unwrap().reason(), "GuardBlind");
    node.proc.place(child.pid(), "p");
    // The paused clock isn't the one that start times are in.
    std::thread::sleep(Duration::from_millis(30));
    seconds(15).await;
    assert_eq!((node.usage.borrow().unattributed[&gpu(0)], node.usage.borrow().blind), (gib(0), None));
    assert_eq!(node.told.try_recv().unwrap().reason(), "GuardSees");
    assert!(child.is_alive() && node.told.try_recv().is_err());
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_over_its_share_is_evicted_once() {
    let node = Node::start();
    let child = node.child("p");
    node.api.claim("a", "uid-a", &["p"]);
    node.fake.uses(&[(child.pid(), 12)]);
    node.holdings.send_replace(vec![held(GuardMode::Evict, &["p"])]);
    seconds(300).await;
    assert_eq!((node.api.sent("eviction").len(), node.api.sent("events").len()), (1, 1));
    node.end().await;
}
