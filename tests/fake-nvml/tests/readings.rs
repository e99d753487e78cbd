//! Measurements, modes and event sets through the real wrapper.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use fake_nvml::{Profile, built_library};
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enum_wrappers::device::{ComputeMode, TemperatureSensor};
use nvml_wrapper::{Nvml, error::NvmlError};

#[test]
fn an_idle_gpu_answers_all_that_a_monitor_asks() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("libnvidia-ml.so.1");
    std::fs::write(
        &path,
        Profile::named("mixed").unwrap().append_to(&std::fs::read(built_library().unwrap()).unwrap()),
    )
    .unwrap();
    for node in ["nvidiactl", "nvidia0", "nvidia1", "nvidia2"] {
        std::fs::write(dir.path().join(node), "").unwrap();
    }
    // SAFETY: no other thread of this process reads the environment.
    #[allow(unsafe_code, reason = "the library is told by its environment")]
    unsafe {
        std::env::set_var("FAKE_NVML_DEV", dir.path());
    }
    let nvml = Nvml::builder().lib_path(path.as_os_str()).init().unwrap();
    let gpus: Vec<_> = (0..3).map(|index| nvml.device_by_index(index).unwrap()).collect();
    for gpu in &gpus {
        assert_eq!(gpu.compute_mode().unwrap(), ComputeMode::Default);
        assert!(gpu.temperature(TemperatureSensor::Gpu).unwrap() < 60);
        assert_eq!(gpu.utilization_rates().unwrap().gpu, 0);
        assert!(gpu.power_usage().unwrap() > 0);
        assert!(gpu.is_ecc_enabled().unwrap().currently_enabled);
        assert!(gpu.running_compute_processes().unwrap().is_empty());
        assert!(matches!(gpu.numa_node_id(), Err(NvmlError::NotSupported)));
    }
    let mig: Vec<_> = gpus.iter().map(|gpu| gpu.mig_mode().map(|mode| mode.current).ok()).collect();
    assert_eq!(mig.iter().filter(|mode| **mode == Some(0)).count(), 1, "of these only the H100 has the mode: {mig:?}");

    let set = nvml.create_event_set().unwrap();
    let set = gpus[0].register_events(EventTypes::CRITICAL_XID_ERROR, set).map_err(|error| error.error).unwrap();
    assert!(matches!(set.wait(20), Err(NvmlError::Timeout)));
    set.release_events().unwrap();
}
