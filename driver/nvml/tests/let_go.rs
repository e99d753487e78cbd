//! Every session of a process ends while a GPU is to change its driver, against the simulated library.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod node;

use std::time::{Duration, Instant};

use aliquot_nvml::{Error, EventKind, NoSample, Nvml, Patience, Session};
use fake_nvml::{Control, Happening, Persistence};
use node::Node;
use tokio::sync::mpsc;

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);
const PATIENT: Patience = Patience { each: LONG, all: LONG };

/// How many of the node's GPUs this process has open.
fn open(node: &Node) -> usize {
    let begin = node.dir.path().join("nvidia");
    let is_node = |target: &std::path::PathBuf| target.to_str().unwrap().starts_with(begin.to_str().unwrap());
    let fds = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    fds.filter_map(|fd| std::fs::read_link(fd.path()).ok()).filter(is_node).count()
}

#[tokio::test]
async fn no_session_is_left_and_none_begins_until_it_may_come_back() {
    let node = Node::new();
    let (told, mut events) = mpsc::unbounded_channel();
    let mut nvml = Nvml::watching(node.library(), told).unwrap();
    nvml.read(Session::Keep, LONG).await.unwrap();
    let questions = nvml.questions();
    questions.samples(vec![node.uuid(0)], PATIENT).await.unwrap();
    assert_eq!(open(&node), 3);

    let absence = questions.let_go(vec![], LONG, LONG).await.unwrap();
    assert_eq!(open(&node), 0);
    let away = |error: Error| matches!(error, Error::Away { .. });
    assert!(away(nvml.read(Session::Renew, SHORT).await.unwrap_err()));
    assert!(away(questions.processes(vec![node.uuid(0)], SHORT).await.unwrap_err()));
    let patience = Patience { each: SHORT, all: SHORT };
    assert!(away(questions.samples(vec![node.uuid(0)], patience).await.unwrap_err()));
    assert_eq!(open(&node), 0);

    drop(absence);
    assert_eq!(nvml.read(Session::Keep, LONG).await.unwrap().gpus.len(), 3);
    assert!(questions.processes(vec![node.uuid(0)], LONG).await.is_ok());
    assert!(questions.samples(vec![node.uuid(0)], PATIENT).await.unwrap()[0].sample.is_ok());
    let mut all = Vec::new();
    let event = loop {
        nvml.read(Session::Keep, LONG).await.unwrap();
        all.push(Happening { gpu: node.uuid(1).to_string(), kind: 0x8000, data: 0 });
        node.control(&Control { events: all.clone(), ..Control::default() });
        if let Ok(event) = tokio::time::timeout(SHORT, events.recv()).await {
            break event.unwrap();
        }
    };
    assert_eq!(event.kind, EventKind::Recovery, "what GPUs report is heard again");
}

#[tokio::test]
async fn it_comes_back_by_itself_from_one_who_never_lets_it() {
    let node = Node::new();
    let nvml = Nvml::new(node.library()).unwrap();
    let questions = nvml.questions();
    let start = Instant::now();
    let absence = questions.let_go(vec![], LONG, SHORT).await.unwrap();
    assert!(questions.processes(vec![node.uuid(0)], LONG).await.is_ok());
    assert!(start.elapsed() >= SHORT);
    drop(absence);
    assert!(questions.let_go(vec![], LONG, LONG).await.is_ok());
}

#[tokio::test]
async fn a_second_who_wants_it_waits_for_no_first_that_is_stuck() {
    let node = Node::new();
    let nvml = Nvml::new(node.library()).unwrap();
    let questions = nvml.questions();
    let first = questions.let_go(vec![], LONG, LONG).await.unwrap();
    let second = questions.let_go(vec![node.uuid(0)], SHORT, LONG).await.unwrap();
    drop(first);
    assert!(matches!(questions.processes(vec![node.uuid(0)], SHORT).await, Err(Error::Away { .. })));
    drop(second);
    assert!(questions.processes(vec![node.uuid(0)], LONG).await.is_ok());
}

#[tokio::test]
async fn a_gpu_that_keeps_a_session_hanging_is_the_reason_why_not() {
    let node = Node::new();
    let mut nvml = Nvml::new(node.library()).unwrap();
    nvml.read(Session::Keep, LONG).await.unwrap();
    let questions = nvml.questions();
    let hangs = [("nvmlDeviceGetPowerUsage".to_owned(), 2_000)].into();
    node.control(&Control { hangs: [(node.uuid(1).to_string(), hangs)].into(), ..Control::default() });
    let patience = Patience { each: SHORT, all: LONG };
    let sampled = questions.samples(vec![node.uuid(1)], patience).await.unwrap();
    assert_eq!(sampled[0].sample.as_ref().err(), Some(&NoSample::Hangs));
    assert!(matches!(questions.let_go(vec![], SHORT, LONG).await, Err(Error::Overdue { .. })));
    assert!(questions.processes(vec![node.uuid(0)], LONG).await.is_ok(), "nobody else waits for that");
    let absence = questions.let_go(vec![], LONG, LONG).await.unwrap();
    assert_eq!(open(&node), 0);
    drop(absence);
}

#[tokio::test]
async fn persistence_mode_goes_off_before_and_on_again_when_that_is_asked_for() {
    let node = Node::new();
    let on = |gpus: &[usize]| Persistence(gpus.iter().map(|gpu| node.uuid(*gpu).to_string()).collect());
    on(&[0, 2]).keep(&node.control_file()).unwrap();
    let nvml = Nvml::new(node.library()).unwrap();
    let questions = nvml.questions();
    let absence = questions.let_go(vec![node.uuid(0), node.uuid(1)], LONG, LONG).await.unwrap();
    assert_eq!(absence.rested(), [node.uuid(0)]);
    assert_eq!(Persistence::beside(&node.control_file()), on(&[2]));
    drop(absence);
    questions.wake(vec![node.uuid(0)], LONG).await.unwrap();
    assert_eq!(Persistence::beside(&node.control_file()), on(&[0, 2]));
    let unknown = "GPU-1-2-3".parse().unwrap();
    assert!(matches!(questions.wake(vec![unknown], LONG).await, Err(Error::Persistence { .. })));
}
