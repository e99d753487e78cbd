//! The library through the real wrapper. One process loads it once, so all of it is one test.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
use std::path::Path;

use fake_nvml::{Control, Profile, built_library};
use nvml_wrapper::{Nvml, error::NvmlError};

fn say(path: &Path, control: &Control) {
    std::fs::write(path, serde_json::to_vec(control).unwrap()).unwrap();
}

#[test]
fn a_process_sees_the_gpus_whose_nodes_it_can_open_and_the_trouble_it_is_told_of() {
    let dir = tempfile::tempdir().unwrap();
    let profile = Profile::named("failing").unwrap();
    let path = dir.path().join("libnvidia-ml.so.1");
    std::fs::write(&path, profile.append_to(&std::fs::read(built_library().unwrap()).unwrap())).unwrap();
    let control = dir.path().join("control.json");
    // SAFETY: no other thread of this process reads the environment.
    #[allow(unsafe_code, reason = "the library is told by its environment")]
    unsafe {
        std::env::set_var("FAKE_NVML_DEV", dir.path());
        std::env::set_var("FAKE_NVML_CONTROL", &control);
    }
    let init = || Nvml::builder().lib_path(path.as_os_str()).init();
    assert!(matches!(init(), Err(NvmlError::DriverNotLoaded)), "without nvidiactl there is no driver");

    for node in ["nvidiactl", "nvidia0", "nvidia1", "nvidia2"] {
        std::fs::write(dir.path().join(node), "").unwrap();
    }
    let nvml = init().unwrap();
    assert_eq!(nvml.sys_driver_version().unwrap(), profile.driver_version);
    assert_eq!(nvml.device_count().unwrap(), 3, "the fourth GPU has no node");
    let first = nvml.device_by_index(0).unwrap();
    assert_eq!(first.uuid().unwrap(), profile.gpus[0].uuid);
    assert_eq!(first.memory_info().unwrap().total, profile.gpus[0].memory);
    assert_eq!(first.pci_info().unwrap().bus_id, "00000000:1B:00.0");
    assert!(matches!(nvml.device_by_index(2).unwrap().uuid(), Err(NvmlError::GpuLost)));
    assert!(matches!(nvml.device_by_index(3), Err(NvmlError::InvalidArg)));

    let uuid = profile.gpus[0].uuid.clone();
    say(&control, &Control { removed: vec![uuid.clone()], ..Control::default() });
    assert_eq!(nvml.device_count().unwrap(), 2);
    assert!(matches!(first.name(), Err(NvmlError::GpuLost)));
    let errors = [(uuid, [("nvmlDeviceGetName".to_owned(), 999)].into())].into();
    say(&control, &Control { errors, ..Control::default() });
    assert!(matches!(first.name(), Err(NvmlError::Unknown)));
    assert!(first.uuid().is_ok());
}
