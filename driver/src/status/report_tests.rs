//! Whose use is told as whose.
use std::time::Duration;

use aliquot_model::testing::gpu;
use aliquot_nvml::Sample;
use dra_plugin::{ClaimRef, ClaimUid, PodRef};

use super::*;
use crate::claim::SeenDevice;

/// A claim of `pod` to the GPU at a bus.
fn seen(uid: &str, bus: u8, pod: &str) -> Seen {
    let device = SeenDevice {
        name: gpu(bus).whole_name(),
        request: Some("gpu".into()),
        gpu: Some(gpu(bus).uuid),
        share_id: None,
        memory: None,
        hard: false,
        vfio: None,
    };
    Seen {
        uid: ClaimUid::new(uid).unwrap(),
        claim: ClaimRef::new("team", uid, uid).ok(),
        state: SeenState::Prepared,
        file: format!("/run/aliquot/x/claims/{uid}.json").into(),
        written: Some(SystemTime::UNIX_EPOCH),
        pods: vec![PodRef { name: pod.into(), uid: pod.into() }],
        devices: vec![device],
    }
}

fn on(bus: u8, processes: &[(Option<&str>, u64, u32)]) -> NodeSeen {
    let process = |(pod, gibibytes, sm): &(Option<&str>, u64, u32)| Process {
        pod: pod.map(ToOwned::to_owned),
        used: Some(Memory::from_bytes(gibibytes << 30)),
        sm: Some(*sm),
    };
    let gpu = gpu(bus);
    let seen = GpuSeen {
        index: Some(gpu.index),
        uuid: Some(gpu.uuid),
        pci: Some(gpu.pci),
        product_name: Some(gpu.product_name),
        driver_version: Some(gpu.driver_version),
        memory: Some(gpu.memory),
        trouble: None,
        sample: Sample::default(),
        group: None,
        processes: Some(processes.iter().map(process).collect()),
    };
    NodeSeen { gpus: vec![seen], trouble: None }
}

#[test]
fn each_claim_is_told_what_its_pods_use_and_the_rest_is_of_others() {
    let node =
        on(1, &[(Some("a"), 3, 20), (Some("a"), 1, 10), (Some("b"), 5, 0), (Some("stranger"), 2, 1), (None, 4, 1)]);
    let report = report(
        "x",
        &Sources {
            seen: &[seen("u1", 1, "a"), seen("u2", 1, "b"), seen("u3", 2, "c")],
            owed: &[],
            node: &node,
            told: None,
        },
        SystemTime::UNIX_EPOCH,
    );
    let told = |n: usize| {
        let device = &report.claims[n].devices[0];
        (device.memory_used_bytes.map(|bytes| bytes >> 30), device.sm_percent, device.is_together)
    };
    assert_eq!((told(0), told(1)), ((Some(4), Some(30), false), (Some(5), Some(0), false)));
    assert_eq!(told(2), (None, None, false), "its GPU isn't there");
    assert_eq!(report.gpus[0].others_memory_bytes, Some(6 << 30));
}

#[test]
fn claims_of_one_pod_on_one_gpu_can_not_be_told_apart() {
    let node = on(1, &[(Some("a"), 3, 20)]);
    let report = report(
        "x",
        &Sources { seen: &[seen("u1", 1, "a"), seen("u2", 1, "a")], owed: &[], node: &node, told: None },
        SystemTime::UNIX_EPOCH,
    );
    for claim in &report.claims {
        assert!(claim.devices[0].is_together && claim.devices[0].memory_used_bytes == Some(3 << 30));
    }
}

#[test]
fn without_a_driver_nothing_is_claimed_about_the_sweep_nor_without_nvml_about_use() {
    let later = SystemTime::UNIX_EPOCH + Duration::from_mins(3);
    let node = NodeSeen { gpus: vec![], trouble: Some("no library".into()) };
    let json = serde_json::to_value(report(
        "x",
        &Sources { seen: &[seen("u1", 1, "a")], owed: &[], node: &node, told: None },
        later,
    ))
    .unwrap();
    assert!(json.get("sweep").is_none() && json["claims"][0].get("sweep").is_none(), "{json}");
    assert!(json["claims"][0]["devices"][0].get("memoryUsedBytes").is_none(), "{json}");
    assert_eq!(
        (json["gpusTrouble"].as_str(), json["claims"][0]["ageSeconds"].as_u64()),
        (Some("no library"), Some(180))
    );
}
