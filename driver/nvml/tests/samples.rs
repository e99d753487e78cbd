//! Samples of what GPUs measure, against the simulated library.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod node;

use std::time::{Duration, Instant};

use aliquot_model::Memory;
use aliquot_nvml::{NoSample, Nvml, Patience, Sample, Session, Throttle, Traffic};
use fake_nvml::{Control, Readings};
use node::Node;
use nvml_wrapper_sys::bindings::field_id as id;

const LONG: Duration = Duration::from_secs(20);
const PATIENT: Patience = Patience { each: LONG, all: LONG };

async fn opened(node: &Node) -> Nvml {
    let mut nvml = Nvml::new(node.library()).unwrap();
    nvml.read(Session::Keep, LONG).await.unwrap();
    nvml
}

#[tokio::test]
async fn a_sample_is_what_the_gpu_says_in_its_own_units_over_all_links() {
    let node = Node::new();
    let fields = [(id::NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, 7), (id::NVML_FI_DEV_PCIE_COUNT_RX_BYTES, 9)];
    let readings = Readings {
        busy: Some([87, 12]),
        power: Some(412_345),
        memory_used: 5 << 30,
        throttled: Some(0x1 | 0x4 | 0x40),
        fields: fields.into(),
        ..Readings::default()
    };
    node.control(&Control { readings: [(node.uuid(1).to_string(), readings)].into(), ..Control::default() });
    let nvml = opened(&node).await;
    let samples = nvml.questions().samples(vec![node.uuid(1)], PATIENT).await.unwrap();
    let sample = samples[0].sample.clone().unwrap();
    assert_eq!((sample.busy, sample.memory_busy, sample.power), (Some(87), Some(12), Some(412_345)));
    assert_eq!(sample.memory.unwrap().used, Memory::from_bytes(5 << 30));
    assert_eq!(sample.throttled.unwrap(), [Throttle::PowerCap, Throttle::HardwareHeat]);
    assert_eq!(sample.nvlink, Traffic { sent: Some(7), received: None });
    // Counted, so the slow question isn't put.
    assert_eq!((sample.pcie.received, sample.pcie_rate), (Some(9), Traffic::default()));
    // Nothing is said of ECC that isn't said to be on.
    assert_eq!(sample.ecc.corrected, None);
}

#[tokio::test]
async fn a_question_that_a_gpu_does_not_know_has_no_answer() {
    let node = Node::new();
    let readings = [(node.uuid(0).to_string(), Readings::silent())].into();
    node.control(&Control { readings, ..Control::default() });
    let nvml = opened(&node).await;
    let samples = nvml.questions().samples(vec![node.uuid(0)], PATIENT).await.unwrap();
    let sample = samples[0].sample.clone().unwrap();
    assert!(sample.memory.is_some());
    assert_eq!(Sample { memory: None, ..sample }, Sample::default());
}

#[tokio::test]
async fn a_gpu_that_hangs_costs_its_own_sample_and_is_not_asked_again_until_it_answers() {
    let node = Node::new();
    let hang = |milliseconds| {
        let hangs = [("nvmlDeviceGetPowerUsage".to_owned(), milliseconds)].into();
        node.control(&Control { hangs: [(node.uuid(1).to_string(), hangs)].into(), ..Control::default() });
    };
    hang(1500);
    let nvml = opened(&node).await;
    let gpus: Vec<_> = (0..3).map(|gpu| node.uuid(gpu)).collect();
    let patience = Patience { each: Duration::from_millis(500), all: LONG };
    let sampled = || async {
        let samples = nvml.questions().samples(gpus.clone(), patience).await.unwrap();
        samples.into_iter().map(|sampled| sampled.sample.map(drop)).collect::<Vec<_>>()
    };
    let left_out = vec![Ok(()), Err(NoSample::Hangs), Ok(())];
    assert_eq!(sampled().await, left_out);
    hang(0);
    let end = Instant::now() + LONG;
    while sampled().await != vec![Ok(()); 3] {
        assert!(Instant::now() < end, "it answers again, and isn't asked");
    }
}

#[tokio::test]
async fn a_gpu_that_is_gone_says_so_and_the_others_are_sampled() {
    let node = Node::new();
    let nvml = opened(&node).await;
    node.control(&Control { removed: vec![node.uuid(0).to_string()], ..Control::default() });
    let samples = nvml.questions().samples(vec![node.uuid(0), node.uuid(1)], PATIENT).await.unwrap();
    assert!(matches!(samples[0].sample, Err(NoSample::Failed(_))) && samples[1].sample.is_ok());
}
