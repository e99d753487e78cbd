//! Processes on GPUs through the real wrapper. One process loads the library once, so all of it is one test.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
use std::{
    path::Path,
    process::{Child, Command},
};

use fake_nvml::{Control, Process, Profile, built_library};
use nvml_wrapper::{Device, Nvml, enums::device::UsedGpuMemory, struct_wrappers::device::ProcessInfo};

const SUCCESS: u32 = 0;
const INVALID_ARGUMENT: u32 = 2;
const INSUFFICIENT_SIZE: u32 = 7;

fn put(path: &Path, uuid: &str, processes: Vec<Process>) {
    let control = Control { processes: [(uuid.to_owned(), processes)].into(), ..Control::default() };
    std::fs::write(path, serde_json::to_vec(&control).unwrap()).unwrap();
}

fn sleeper() -> Child {
    Command::new("sleep").arg("60").spawn().unwrap()
}

fn pids(processes: &[ProcessInfo]) -> Vec<u32> {
    processes.iter().map(|process| process.pid).collect()
}

/// The bare call with room for so many, and the number that it gives.
#[allow(unsafe_code, reason = "the wrapper always brings enough room")]
fn ask(nvml: &Nvml, gpu: &Device<'_>, room: u32) -> (u32, u32) {
    // SAFETY: all zeros are a structure of numbers.
    let mut infos = vec![unsafe { std::mem::zeroed() }; room as usize];
    let mut count = room;
    let call = nvml.lib().nvmlDeviceGetComputeRunningProcesses_v3.as_ref().unwrap();
    // SAFETY: the handle is NVML's, the buffer has as much room as is said, and null is no place for a number.
    unsafe {
        assert_eq!(call(gpu.handle(), std::ptr::null_mut(), infos.as_mut_ptr()), INVALID_ARGUMENT);
        let code = call(gpu.handle(), &raw mut count, infos.as_mut_ptr());
        (code, count)
    }
}

#[test]
fn a_gpu_tells_of_the_processes_that_live_each_in_the_list_of_what_it_does() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("libnvidia-ml.so.1");
    let profile = Profile::named("h100x8").unwrap();
    std::fs::write(&path, profile.append_to(&std::fs::read(built_library().unwrap()).unwrap())).unwrap();
    for node in ["nvidiactl", "nvidia0", "nvidia1"] {
        std::fs::write(dir.path().join(node), "").unwrap();
    }
    let control = dir.path().join("control.json");
    // What the library is told by its environment, it is also told by the file beside it.
    let settings = format!("FAKE_NVML_DEV={}\nFAKE_NVML_CONTROL={}\n", dir.path().display(), control.display());
    std::fs::write(dir.path().join(fake_nvml::SETTINGS), settings).unwrap();
    let nvml = Nvml::builder().lib_path(path.as_os_str()).init().unwrap();
    let (gpu, other) = (nvml.device_by_index(0).unwrap(), nvml.device_by_index(1).unwrap());
    assert!(gpu.running_compute_processes().unwrap().is_empty());

    let (mut first, mut second) = (sleeper(), sleeper());
    let process = |child: &Child, used, graphics| Process { pid: child.id(), used, graphics };
    let all =
        vec![process(&first, Some(5 << 30), false), process(&second, None, false), process(&first, Some(7), true)];
    put(&control, &profile.gpus[0].uuid, all);
    assert_eq!(gpu.running_compute_processes_count().unwrap(), 2);
    let computing = gpu.running_compute_processes().unwrap();
    assert_eq!(pids(&computing), [first.id(), second.id()]);
    assert_eq!(computing[0].used_gpu_memory, UsedGpuMemory::Used(5 << 30));
    assert_eq!(computing[1].used_gpu_memory, UsedGpuMemory::Unavailable);
    assert_eq!((computing[0].gpu_instance_id, computing[0].compute_instance_id), (None, None));
    let drawing = gpu.running_graphics_processes().unwrap();
    assert_eq!((pids(&drawing), &drawing[0].used_gpu_memory), (vec![first.id()], &UsedGpuMemory::Used(7)));
    assert!(other.running_compute_processes().unwrap().is_empty());

    assert_eq!(ask(&nvml, &gpu, 1), (INSUFFICIENT_SIZE, 2), "a buffer that is too small is told the number");
    assert_eq!(ask(&nvml, &gpu, 0), (INSUFFICIENT_SIZE, 2));
    assert_eq!(ask(&nvml, &gpu, 4), (SUCCESS, 2));
    assert_eq!(ask(&nvml, &other, 0), (SUCCESS, 0));

    // Nobody has waited for it yet.
    first.kill().unwrap();
    while gpu.running_compute_processes().unwrap().len() > 1 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(pids(&gpu.running_compute_processes().unwrap()), [second.id()]);
    first.wait().unwrap();
    second.kill().unwrap();
    second.wait().unwrap();
    assert!(gpu.running_compute_processes().unwrap().is_empty());
    assert!(gpu.running_graphics_processes().unwrap().is_empty());
}
