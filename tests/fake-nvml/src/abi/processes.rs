//! The processes on a GPU, as the control file has them.
use std::ffi::c_uint;

use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlProcessInfo_t, nvmlReturn_t};

use super::{INVALID_ARGUMENT, TOO_SMALL, code, view_of};
use crate::{Process, state::Code};

/// `NVML_VALUE_NOT_AVAILABLE` as the memory that a process uses.
const NOT_AVAILABLE: u64 = u64::MAX;

/// For a process that is on no MIG instance.
const NO_INSTANCE: c_uint = c_uint::MAX;

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    device: nvmlDevice_t,
    count: *mut c_uint,
    infos: *mut nvmlProcessInfo_t,
) -> nvmlReturn_t {
    code(list(device, "nvmlDeviceGetComputeRunningProcesses_v3", count, infos, |process| !process.graphics))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetGraphicsRunningProcesses_v3(
    device: nvmlDevice_t,
    count: *mut c_uint,
    infos: *mut nvmlProcessInfo_t,
) -> nvmlReturn_t {
    code(list(device, "nvmlDeviceGetGraphicsRunningProcesses_v3", count, infos, |process| process.graphics))
}

fn list(
    device: nvmlDevice_t,
    function: &str,
    count: *mut c_uint,
    infos: *mut nvmlProcessInfo_t,
    is_listed: impl Fn(&Process) -> bool,
) -> Result<(), Code> {
    let (view, gpu) = view_of(device, function)?;
    if count.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: not null, and the caller has set it to the number of elements in its buffer.
    let room = unsafe { count.read() };
    if infos.is_null() && room > 0 {
        return Err(INVALID_ARGUMENT);
    }
    let listed: Vec<_> = view.processes(gpu).filter(|process| is_listed(process)).map(info).collect();
    let needed = c_uint::try_from(listed.len()).unwrap_or(c_uint::MAX);
    // SAFETY: not null, and the caller's own number.
    unsafe { count.write(needed) };
    if needed > room {
        return Err(TOO_SMALL);
    }
    // SAFETY: the caller's buffer has room for as many elements, and without room for any, none is copied.
    unsafe { infos.copy_from_nonoverlapping(listed.as_ptr(), listed.len()) };
    Ok(())
}

fn info(process: &Process) -> nvmlProcessInfo_t {
    nvmlProcessInfo_t {
        pid: process.pid,
        usedGpuMemory: process.used.unwrap_or(NOT_AVAILABLE),
        gpuInstanceId: NO_INSTANCE,
        computeInstanceId: NO_INSTANCE,
    }
}
