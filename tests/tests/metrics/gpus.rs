//! What GPUs measure: in SI units, joined to claims and pods, absent where a GPU doesn't say, and within the client's time.
use std::{
    fs,
    time::{Duration, Instant},
};

use aliquot_tests::testbed::{Result, Testbed};
use fake_apiserver::Server;
use fake_nvml::{Control, Readings};

use crate::scene::{label_names, measure, scrape, until, uuid, value};

/// `NVML_FI_DEV_…`, by NVML's header.
mod field {
    pub(super) const ECC_CURRENT: u32 = 1;
    pub(super) const ECC_SBE_VOL_TOTAL: u32 = 3;
    pub(super) const ECC_DBE_AGG_TOTAL: u32 = 6;
    pub(super) const MEMORY_TEMP: u32 = 82;
    pub(super) const TOTAL_ENERGY_CONSUMPTION: u32 = 83;
    pub(super) const PCIE_REPLAY_COUNTER: u32 = 94;
    pub(super) const NVLINK_THROUGHPUT_DATA_TX: u32 = 138;
    pub(super) const PCIE_COUNT_RX_BYTES: u32 = 198;
}

const GPU: &str = "gpu-0000-1b-00";

fn busy() -> Readings {
    let fields = [
        (field::ECC_CURRENT, 1),
        (field::ECC_SBE_VOL_TOTAL, 3),
        (field::ECC_DBE_AGG_TOTAL, 1),
        (field::MEMORY_TEMP, 71),
        (field::TOTAL_ENERGY_CONSUMPTION, 5_500),
        (field::PCIE_REPLAY_COUNTER, 4),
        (field::NVLINK_THROUGHPUT_DATA_TX, 2),
        (field::PCIE_COUNT_RX_BYTES, 4096),
    ];
    Readings {
        busy: Some([87, 12]),
        memory_used: 5 << 30,
        temperature: Some(64),
        power: Some(412_345),
        power_limit: Some(700_000),
        clocks: Some([1980, 2619]),
        throttled: Some(0x4),
        fields: fields.into(),
        ..Readings::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_gpu_measures_is_told_in_plain_units_and_what_it_does_not_say_is_absent() -> Result<()> {
    let testbed = Testbed::start("h100x8").await?;
    let rate = Readings { pcie_rate: Some([3, 5]), ..Readings::silent() };
    measure(&testbed, &[(0, busy()), (1, rate)])?;
    let (first, second) = (uuid(&testbed, 0), uuid(&testbed, 1));
    let all = until(&testbed, "the GPU is busy", |all| {
        value(all, "hw_gpu_utilization_ratio", &[("uuid", first.as_str()), ("hw_gpu_task", "general")]) == Some(0.87)
    })
    .await?;
    for (name, labels, expected) in [
        ("aliquot_gpu_memory_controller_utilization_ratio", vec![], 0.12),
        ("hw_gpu_memory_usage_bytes", vec![], 5_368_709_120.0),
        ("hw_gpu_memory_limit_bytes", vec![], 85_520_809_984.0),
        ("hw_gpu_memory_utilization_ratio", vec![], 5_368_709_120.0 / 85_520_809_984.0),
        ("hw_temperature_celsius", vec![("hw_sensor_location", "gpu")], 64.0),
        ("hw_temperature_celsius", vec![("hw_sensor_location", "memory")], 71.0),
        ("hw_power_watts", vec![], 412.345),
        ("aliquot_gpu_power_limit_watts", vec![], 700.0),
        ("hw_energy_joules_total", vec![], 5.5),
        ("aliquot_gpu_clock_hertz", vec![("clock", "sm")], 1.98e9),
        ("aliquot_gpu_clock_hertz", vec![("clock", "memory")], 2.619e9),
        ("aliquot_gpu_throttled", vec![("reason", "power_cap")], 1.0),
        ("aliquot_gpu_throttled", vec![("reason", "hardware_thermal")], 0.0),
        ("hw_gpu_io_bytes_total", vec![("network_io_direction", "receive")], 4096.0),
        ("aliquot_gpu_pcie_replays_total", vec![], 4.0),
        ("aliquot_gpu_nvlink_io_bytes_total", vec![("network_io_direction", "transmit")], 2048.0),
        ("hw_errors_total", vec![("error_type", "corrected")], 3.0),
        ("aliquot_gpu_ecc_errors_ever_total", vec![("error_type", "uncorrected")], 1.0),
        ("aliquot_gpu_sampled", vec![], 1.0),
    ] {
        let labels: Vec<_> = labels.into_iter().chain([("uuid", first.as_str()), ("device", GPU)]).collect();
        assert_eq!(value(&all, name, &labels), Some(expected), "{name} {labels:?}");
    }
    let of_second =
        |name: &str, labels: &[(&str, &str)]| value(&all, name, &[&[("uuid", second.as_str())][..], labels].concat());
    let sent = [("network_io_direction", "transmit")];
    assert_eq!(of_second("aliquot_gpu_pcie_throughput_bytes_per_second", &sent), Some(3000.0));
    for absent in ["hw_power_watts", "hw_energy_joules_total", "aliquot_gpu_pcie_replays_total"] {
        assert_eq!(of_second(absent, &[]), None, "{absent}");
    }
    let of_first = [("uuid", first.as_str()), ("hw_model", "NVIDIA H100 80GB HBM3"), ("pci_bus_id", "0000:1b:00.0")];
    assert_eq!(value(&all, "aliquot_gpu_info", &of_first), Some(1.0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn series_of_a_gpu_are_joined_to_its_claims_and_pods_and_a_pods_processes_to_the_pod() -> Result<()> {
    let testbed = Testbed::start("h100x8").await?;
    let (first, pod, other) = (uuid(&testbed, 0), "11111111-1111-4111-8111-111111111111", "other-uid");
    let (_, id) = testbed.share("mine", GPU, &[("trainer", pod)]).await?;
    testbed.share("theirs", GPU, &[("viewer", other), ("viewer-2", "other-uid-2")]).await?;
    let pid = std::process::id();
    testbed.node.place(pid, Some(pod))?;
    let processes = Some([(pid, 30), (u32::MAX - 1, 20)].into());
    measure(&testbed, &[(0, Readings { processes, ..busy() })])?;
    let ours = [("uuid", first.as_str()), ("namespace", "default"), ("claim", "mine"), ("pod", "trainer")];
    let all =
        until(&testbed, "the pod computes", |all| value(all, "aliquot_pod_sm_utilization_ratio", &ours) == Some(0.3))
            .await?;
    assert_eq!(value(&all, "aliquot_pod_sm_utilization_ratio", &[("pod", "viewer")]), Some(0.0));
    let info: Vec<_> = ours.into_iter().chain([("share_id", id.as_str()), ("pod_uid", pod)]).collect();
    assert_eq!(value(&all, "aliquot_claim_device_info", &info), Some(1.0));
    let of_viewers = all.iter().filter(|series| series.name == "aliquot_claim_device_info");
    assert_eq!(of_viewers.filter(|series| series.has(&[("claim", "theirs")])).count(), 2);
    assert_eq!(value(&all, "aliquot_devices_held", &[("kind", "shared")]), Some(2.0));
    assert_eq!(value(&all, "aliquot_devices_offered", &[("kind", "whole")]), Some(8.0));
    // What joins has one name everywhere.
    for (name, labels) in label_names(&all) {
        let is_gpu = name.starts_with("hw_") || name.starts_with("aliquot_gpu_") || name.starts_with("aliquot_share_");
        assert!(!is_gpu || labels.is_empty() || labels.contains("uuid"), "{name} has {labels:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_that_hangs_costs_its_own_series_and_the_scrape_ends_in_time() -> Result<()> {
    let testbed = Testbed::start("h100x8").await?;
    let hang = |milliseconds| {
        let hangs = [(uuid(&testbed, 3), [("nvmlDeviceGetPowerUsage".to_owned(), milliseconds)].into())].into();
        testbed.node.control(&Control { hangs, ..Control::default() })
    };
    hang(20_000)?;
    let slow = uuid(&testbed, 3);
    until(&testbed, "the GPU hangs", |all| value(all, "aliquot_gpu_sampled", &[("uuid", slow.as_str())]) == Some(0.0))
        .await?;
    let begun = Instant::now();
    let all = scrape(&testbed).await?;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let power = |gpu: usize| value(&all, "hw_power_watts", &[("uuid", uuid(&testbed, gpu).as_str())]);
    let told: Vec<usize> = (0..8).filter(|gpu| power(*gpu).is_some()).collect();
    assert_eq!(told, [0, 1, 2, 4, 5, 6, 7]);
    // Claims are served meanwhile.
    let claim = testbed.allocated("meanwhile", &[("gpu", GPU)]).await?;
    testbed.prepare(&claim).await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn at_rest_no_gpu_is_asked_what_it_measures() -> Result<()> {
    let mut testbed = Testbed::without_driver("h100x8", Server::builder()).await?;
    let pid = testbed.start_driver_by(&["/usr/bin/env"])?;
    testbed.ready().await?;
    let sampling = || {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let names = tasks.map(|task| fs::read_to_string(task.path().join("comm")).unwrap_or_default());
        names.filter(|name| name.starts_with("nvml-samples")).count()
    };
    assert_eq!(sampling(), 0);
    // A thread that samples can be seen, so that its absence says something.
    let hangs = [(uuid(&testbed, 0), [("nvmlDeviceGetPowerUsage".to_owned(), 5_000)].into())].into();
    testbed.node.control(&Control { hangs, ..Control::default() })?;
    scrape(&testbed).await?;
    testbed.until("one thread waits for the GPU", || sampling() == 1).await?;
    testbed.until("no thread samples", || sampling() == 0).await
}
