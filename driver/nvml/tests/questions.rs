//! Readings and further questions through one thread, against the simulated library. The library is told by a file
//! beside it, so that each test has a node of its own.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod node;

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Child, Command},
    time::{Duration, Instant},
};

use aliquot_model::{GpuUuid, Memory};
use aliquot_nvml::{Error, GpuProcess, Nvml, Session};
use fake_nvml::{Control, Limits, Process};
use node::Node;

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(100);
const GIB: u64 = 1 << 30;
const COMPUTE: &str = "nvmlDeviceGetComputeRunningProcesses_v3";

fn nvml(node: &Node) -> Nvml {
    Nvml::new(node.library()).unwrap()
}

struct Sleeper(Child);

impl Sleeper {
    fn start() -> Self {
        Self(Command::new("sleep").arg("60").spawn().unwrap())
    }

    fn with(&self, used: Option<u64>, graphics: bool) -> Process {
        Process { pid: self.0.id(), used, graphics }
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_process_that_computes_and_draws_is_one_with_the_larger_figure() {
    let (node, both, silent) = (Node::new(), Sleeper::start(), Sleeper::start());
    let processes = vec![both.with(Some(GIB), false), silent.with(None, false), both.with(Some(3 * GIB), true)];
    node.control(&Control { processes: [(node.uuid(0).to_string(), processes)].into(), ..Control::default() });
    // Nobody has opened the library before.
    let nvml = nvml(&node);
    let answer = nvml.questions().processes(vec![node.uuid(1), node.uuid(0)], LONG).await.unwrap();
    assert_eq!(answer[0].processes, Ok(vec![]));
    assert_eq!(answer[1].gpu, node.uuid(0));
    let mut expected = vec![
        GpuProcess { pid: both.0.id(), used: Some(Memory::from_bytes(3 * GIB)) },
        GpuProcess { pid: silent.0.id(), used: None },
    ];
    expected.sort_by_key(|process| process.pid);
    assert_eq!(answer[1].processes, Ok(expected));
}

#[tokio::test]
async fn a_gpu_that_fails_says_why_and_costs_no_other_its_answer() {
    let (node, sleeper) = (Node::new(), Sleeper::start());
    let on_both = [0, 1].map(|index| (node.uuid(index).to_string(), vec![sleeper.with(Some(GIB), false)]));
    let errors = [(node.uuid(0).to_string(), [(COMPUTE.to_owned(), 999)].into())].into();
    node.control(&Control { processes: on_both.into(), errors, ..Control::default() });
    let nvml = nvml(&node);
    let unknown: GpuUuid = "GPU-1-2-3".parse().unwrap();
    let gpus = vec![node.uuid(0), node.uuid(1), unknown];
    let answer = nvml.questions().processes(gpus, LONG).await.unwrap();
    let reason = answer[0].processes.as_ref().unwrap_err();
    assert!(reason.contains("failed to answer for its processes"), "{reason}");
    assert_eq!(answer[1].processes.as_ref().map(Vec::len), Ok(1));
    assert!(answer[2].processes.is_err());
}

#[tokio::test]
async fn a_reading_tells_which_gpus_answer_for_processes_and_know_limits() {
    let node = Node::new();
    let errors = [(node.uuid(1).to_string(), [(COMPUTE.to_owned(), 3)].into())].into();
    node.control(&Control { errors, ..Control::default() });
    let mut nvml = nvml(&node);
    let reading = nvml.read(Session::Keep, LONG).await.unwrap();
    let gpus: Vec<_> = reading.gpus.into_iter().flatten().map(|gpu| (gpu.process_memory, gpu.memory_limits)).collect();
    // Limits are asked about for the driver's own cgroup, of which a machine without the unified hierarchy has none.
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"));
    let has_cgroup = own.is_some_and(|path| Path::new("/sys/fs/cgroup").join(path).is_dir());
    assert_eq!(gpus, [(true, has_cgroup), (false, false), (true, false)]);
}

#[tokio::test]
async fn a_question_that_hangs_names_its_gpu_to_all_who_wait_and_none_queues_behind_it() {
    let node = Node::new();
    let mut nvml = nvml(&node);
    nvml.read(Session::Keep, LONG).await.unwrap();
    let questions = nvml.questions();
    let hang: BTreeMap<_, _> = [(COMPUTE.to_owned(), 3000)].into();
    node.control(&Control { hang, ..Control::default() });
    let start = Instant::now();
    let both = vec![node.uuid(1), node.uuid(0)];
    let error = questions.processes(both, SHORT).await.unwrap_err();
    assert!(matches!(error, Error::Overdue { gpu: Some(1), so_far: None, .. }), "{error}");
    node.control(&Control::default());
    for _ in 0..3 {
        let cgroup = node.dir.path().to_owned();
        let limit = Some(Memory::from_bytes(GIB));
        let set = questions.set_limits(node.uuid(0), cgroup, Memory::from_bytes(0), limit, SHORT);
        let error = set.await.unwrap_err();
        assert!(matches!(error, Error::Overdue { gpu: Some(1), so_far: None, .. }), "{error}");
    }
    let error = nvml.read(Session::Keep, SHORT).await.unwrap_err();
    assert!(matches!(error, Error::Overdue { gpu: Some(1), .. }), "{error}");
    assert!(nvml.read(Session::Keep, LONG).await.is_ok());
    assert!(start.elapsed() >= Duration::from_secs(3));
    assert_eq!(questions.processes(vec![node.uuid(1)], LONG).await.unwrap()[0].processes, Ok(vec![]));
    let kept = questions.limits(node.uuid(0), node.dir.path().to_owned(), LONG).await.unwrap();
    assert_eq!(kept, None, "what was given up before its turn is not done afterwards");
}

#[tokio::test]
async fn limits_that_are_set_are_told_until_they_are_taken_away() {
    let node = Node::new();
    let nvml = nvml(&node);
    let questions = nvml.questions();
    let (gpu, cgroup) = (node.uuid(0), node.dir.path().join("cgroup"));
    std::fs::create_dir(&cgroup).unwrap();
    let memory = Memory::from_bytes;
    assert_eq!(questions.limits(gpu.clone(), cgroup.clone(), LONG).await.unwrap(), None);
    let set = |soft, hard| questions.set_limits(gpu.clone(), cgroup.clone(), memory(soft), hard, LONG);
    set(GIB, Some(memory(2 * GIB))).await.unwrap();
    let limits = questions.limits(gpu.clone(), cgroup.clone(), LONG).await.unwrap().unwrap();
    assert_eq!((limits.soft, limits.hard, limits.used), (memory(GIB), Some(memory(2 * GIB)), memory(0)));
    let kept = Limits::beside(&node.control_file());
    assert_eq!(kept.0[gpu.as_str()][cgroup.to_str().unwrap()].hard, 2 * GIB);
    set(GIB, None).await.unwrap();
    assert_eq!(questions.limits(gpu.clone(), cgroup.clone(), LONG).await.unwrap().unwrap().hard, None);

    let error = set(3 * GIB, Some(memory(2 * GIB))).await.unwrap_err().to_string();
    assert!(error.contains(cgroup.to_str().unwrap()) && error.contains(gpu.as_str()), "{error}");
    assert!(set(0, Some(memory(node.profile.gpus[0].memory + 1))).await.is_err());

    set(0, None).await.unwrap();
    assert_eq!(questions.limits(gpu.clone(), cgroup.clone(), LONG).await.unwrap(), None);
    assert_eq!(Limits::beside(&node.control_file()).0[gpu.as_str()].len(), 0);
}

#[tokio::test]
async fn a_cgroup_that_is_gone_and_a_gpu_without_limits_are_errors() {
    let node = Node::new();
    let nvml = nvml(&node);
    let questions = nvml.questions();
    let cgroup = node.dir.path().join("cgroup");
    let set = |gpu, cgroup: &Path| questions.set_limits(gpu, cgroup.to_owned(), Memory::from_bytes(0), None, LONG);
    let reason = |error: Error| match error {
        Error::Limits { source, .. } => source.to_string(),
        other => panic!("{other}"),
    };
    let gone = reason(set(node.uuid(0), &cgroup).await.unwrap_err());
    let unable = reason(set(node.uuid(1), node.dir.path()).await.unwrap_err());
    assert_ne!(gone, unable);

    std::fs::create_dir(&cgroup).unwrap();
    let limit = Some(Memory::from_bytes(GIB));
    questions.set_limits(node.uuid(0), cgroup.clone(), Memory::from_bytes(0), limit, LONG).await.unwrap();
    std::fs::rename(&cgroup, node.dir.path().join("former")).unwrap();
    std::fs::create_dir(&cgroup).unwrap();
    let limits = questions.limits(node.uuid(0), cgroup, LONG).await.unwrap();
    assert_eq!(limits, None, "another cgroup with the name of the former");
}

#[tokio::test]
async fn questions_end_with_the_library_that_they_were_for() {
    let node = Node::new();
    let nvml = nvml(&node);
    let questions = nvml.questions();
    questions.processes(vec![node.uuid(0)], LONG).await.unwrap();
    drop(nvml);
    assert!(matches!(questions.processes(vec![node.uuid(0)], LONG).await, Err(Error::Ended)));
    for _ in 0..500 {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        if !maps.contains(node.dir.path().to_str().unwrap()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the library is still loaded");
}
