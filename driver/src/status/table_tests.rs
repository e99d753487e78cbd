//! What the table of a node looks like, to the letter.
#![allow(clippy::needless_raw_string_hashes, reason = "expect-test writes them")]
use std::time::{Duration, SystemTime};

use aliquot_model::{
    Gpu as Model, GpuUuid, IommuGroup,
    testing::{gpu, vfio, vfio_gpu},
};
use aliquot_nvml::{MemoryUse, Sample};
use aliquot_params::Iommu;
use dra_plugin::{ClaimRef, ClaimUid, PodRef};
use expect_test::expect;

use super::*;
use crate::{
    claim::{Owed, Passed, Seen, SeenDevice, SeenState},
    status::{
        node::{GpuSeen, NodeSeen, Process},
        report::{Sources, report},
    },
    sweep::report::Told,
};

fn seen(uid: &str, bus: u8, gibibytes: Option<u64>, state: SeenState) -> Seen {
    let device = SeenDevice {
        name: gpu(bus).whole_name(),
        request: Some("gpu".into()),
        gpu: Some(gpu(bus).uuid),
        share_id: None,
        memory: gibibytes.map(|gibibytes| Memory::from_bytes(gibibytes << 30)),
        hard: gibibytes == Some(8),
        vfio: None,
    };
    Seen {
        uid: ClaimUid::new(uid).unwrap(),
        claim: ClaimRef::new("team", uid, uid).ok(),
        state,
        file: format!("/run/aliquot/x/claims/{uid}.json").into(),
        written: Some(SystemTime::UNIX_EPOCH),
        pods: vec![PodRef { name: format!("pod-{uid}"), uid: uid.into() }],
        devices: vec![device],
    }
}

fn on(bus: u8, index: u32, trouble: Option<&str>, processes: &[(&str, u64)]) -> GpuSeen {
    let process = |(pod, gibibytes): &(&str, u64)| Process {
        pod: Some((*pod).to_owned()),
        used: Some(Memory::from_bytes(gibibytes << 30)),
        sm: Some(7),
    };
    let Model { uuid, pci, product_name, driver_version, memory, .. } = gpu(bus);
    GpuSeen {
        index: Some(index),
        uuid: Some(uuid),
        pci: Some(pci),
        product_name: Some(product_name),
        driver_version: Some(driver_version),
        memory: Some(memory),
        trouble: trouble.map(ToOwned::to_owned),
        sample: Sample {
            busy: Some(14),
            memory: Some(MemoryUse { used: Memory::from_bytes(13 << 30), total: memory }),
            temperature: Some(41),
            power: Some(70_400),
            power_limit: Some(700_000),
            ..Sample::default()
        },
        group: None,
        processes: Some(processes.iter().map(process).collect()),
    }
}

fn told(verdicts: &[(&str, &str, Option<&str>)]) -> Told {
    let verdict = |(uid, verdict, reason): &(&str, &str, Option<&str>)| {
        let reason = reason.map(ToOwned::to_owned);
        let for_seconds = reason.is_some().then_some(61);
        let is_spec = *uid == "u9";
        ((*uid).to_owned(), ToldVerdict { verdict: (*verdict).to_owned(), reason, for_seconds, is_spec })
    };
    let verdicts = verdicts.iter().map(verdict).collect();
    Told { mode: "act".into(), grace_seconds: 300, seconds_ago: Some(2), verdicts }
}

fn shown(seen: &[Seen], node: &NodeSeen, told: Option<&Told>) -> String {
    let now = SystemTime::UNIX_EPOCH + Duration::from_mins(3);
    table(&report("gpu.example.com", &Sources { seen, owed: &[], node, told }, now), Paint(false))
        .replace(env!("CARGO_PKG_VERSION"), "VERSION")
}

#[test]
fn below_each_gpu_stand_the_claims_that_hold_it() {
    let all = [
        seen("u1", 1, Some(8), SeenState::Prepared),
        seen("u2", 1, Some(20), SeenState::Prepared),
        seen("u3", 2, None, SeenState::Quarantined("it is cut short".into())),
        seen("u4", 7, None, SeenState::Preparing),
    ];
    let gpus = vec![on(1, 0, None, &[("u1", 9), ("x", 4)]), on(2, 1, Some("it reported Xid 95"), &[])];
    let verdicts = [("u1", "in_use", None), ("u2", "stale", Some("the claim doesn't exist")), ("u9", "stale", None)];
    expect![[r#"
        aliquot VERSION  |  gpu.example.com  |  NVIDIA 580.65.06  |  2 GPUs  |  5 claims  |  sweep: act

        GPU   NAME                    UUID           MEMORY             BUSY   TEMP   POWER      HEALTH
             CLAIM                   PODS     HOLDS                   MEMORY            SM   AGE   SWEEP
        0     NVIDIA H100 80GB HBM3   GPU-00000001   13.0 of 80.0 GiB   14%    41°C   70/700 W   ok
             team/u1                 pod-u1   share 8Gi, hard limit   9.0 of 8.0 GiB    7%   3m    in use
             team/u2                 pod-u2   share 20Gi              0.0 of 20.0 GiB   0%   3m    stale for 61s: the claim doesn't exist
             processes of no claim                                    4.0 GiB
        1     NVIDIA H100 80GB HBM3   GPU-00000002   13.0 of 80.0 GiB   14%    41°C   70/700 W   ill
             team/u3                 pod-u3   whole                   0.0 GiB           0%   3m    quarantined
        on no GPU that is there:
             team/u4                 pod-u4   whole                   -                 -    3m    preparing
             u9                      -        -                       -                 -    -     spec-only, stale

        GPU 1 is not for new claims: it reported Xid 95

        /run/aliquot/x/claims/u3.json can't be used: it is cut short
    "#]].assert_eq(&shown(&all, &NodeSeen { gpus, trouble: None }, Some(&told(&verdicts))));
}

#[test]
fn a_virtual_machines_gpus_stand_by_their_place_with_their_claim_below_each() {
    let (group, places) = (IommuGroup(12), [vfio_gpu(0x41, "vfio-pci").pci, vfio_gpu(0x42, "vfio-pci").pci]);
    let passed = |pci| GpuSeen {
        index: None,
        uuid: None,
        pci: Some(pci),
        product_name: Some("GH100 [H100 SXM5 80GB]".into()),
        driver_version: None,
        memory: None,
        trouble: None,
        sample: Sample::default(),
        group: Some(group),
        processes: None,
    };
    let mut claim = seen("u1", 0x41, None, SeenState::Prepared);
    let device = &mut claim.devices[0];
    device.name = vfio(0x41).name();
    device.gpu = Some(GpuUuid::of_place(places[0]));
    device.vfio = Some(Passed { group, gpus: places.to_vec(), iommu: Iommu::default(), taken: None });
    expect![[r#"
        aliquot VERSION  |  gpu.example.com  |  2 GPUs  |  1 claim  |  no driver answers

        GPU   NAME                     UUID           MEMORY   BUSY   TEMP   POWER   HEALTH
             CLAIM     PODS     HOLDS             MEMORY   SM   AGE   SWEEP
        -     GH100 [H100 SXM5 80GB]   0000:41:00.0   -        -      -      -       -
             team/u1   pod-u1   virtual machine   -        -    3m    -
        -     GH100 [H100 SXM5 80GB]   0000:42:00.0   -        -      -      -       -
             team/u1   pod-u1   virtual machine   -        -    3m    -
    "#]]
    .assert_eq(&shown(&[claim], &NodeSeen { gpus: places.map(passed).to_vec(), trouble: None }, None));
}

#[test]
fn a_gpu_that_keeps_the_time_slice_of_a_claim_that_is_gone_is_told_with_the_reason() {
    let owed = [Owed { gpu: gpu(1).uuid, reason: "nvidia-smi says no".into() }];
    let sources = Sources { seen: &[], owed: &owed, node: &NodeSeen::default(), told: None };
    let report = report("gpu.example.com", &sources, SystemTime::UNIX_EPOCH);
    let note = format!("\nGPU {} keeps the time slice of a claim that is gone: nvidia-smi says no\n", gpu(1).uuid);
    assert!(table(&report, Paint(false)).ends_with(&note));
    let json = serde_json::to_value(report).unwrap();
    assert_eq!(json["timeSlicesOwed"], serde_json::json!([{"gpu": gpu(1).uuid, "reason": "nvidia-smi says no"}]));
}

#[test]
fn without_nvml_and_the_driver_there_are_the_records() {
    let node = NodeSeen { gpus: vec![], trouble: Some("no libnvidia-ml.so.1".into()) };
    expect![[r#"
        aliquot VERSION  |  gpu.example.com  |  0 GPUs  |  1 claim  |  no driver answers

        the GPUs can't be read, so this is from records alone: no libnvidia-ml.so.1

             CLAIM     PODS     HOLDS   MEMORY   SM   AGE   SWEEP
             team/u1   pod-u1   whole   -        -    3m    -
    "#]]
    .assert_eq(&shown(&[seen("u1", 1, None, SeenState::Prepared)], &node, None));
}
