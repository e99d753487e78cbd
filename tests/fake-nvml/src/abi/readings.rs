//! How a GPU is set up: the same for every one.
use std::ffi::{c_int, c_uint};

use nvml_wrapper_sys::bindings::{self as nvml, nvmlDevice_t, nvmlReturn_t};

use super::{INVALID_ARGUMENT, NOT_SUPPORTED, ask, code, give};
use crate::state::{self, Code};

const OFF: c_uint = 0;
const ON: c_uint = 1;

#[unsafe(no_mangle)]
pub extern "C" fn nvmlSystemGetCudaDriverVersion(version: *mut c_int) -> nvmlReturn_t {
    code(state::view("nvmlSystemGetCudaDriverVersion").and_then(|view| give(version, view.profile.cuda_driver_version)))
}

/// Only coherent platforms, where a GPU's memory is a NUMA node of its own, support this.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetNumaNodeId(device: nvmlDevice_t, _node: *mut c_uint) -> nvmlReturn_t {
    code(ask(device, "nvmlDeviceGetNumaNodeId").and(Err(NOT_SUPPORTED)))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetAddressingMode(
    device: nvmlDevice_t,
    _mode: *mut nvml::nvmlDeviceAddressingMode_t,
) -> nvmlReturn_t {
    code(ask(device, "nvmlDeviceGetAddressingMode").and(Err(NOT_SUPPORTED)))
}

/// The mode is off; compute capabilities 8.0 and 9.0, A100 and H100, are those that have one.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMigMode(
    device: nvmlDevice_t,
    current: *mut c_uint,
    pending: *mut c_uint,
) -> nvmlReturn_t {
    code(ask(device, "nvmlDeviceGetMigMode").and_then(|gpu| match gpu.compute_capability {
        [8 | 9, 0] => give_both(current, pending, OFF),
        _ => Err(NOT_SUPPORTED),
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetEccMode(
    device: nvmlDevice_t,
    current: *mut c_uint,
    pending: *mut c_uint,
) -> nvmlReturn_t {
    code(ask(device, "nvmlDeviceGetEccMode").and_then(|_| give_both(current, pending, ON)))
}

fn give_both(current: *mut c_uint, pending: *mut c_uint, mode: c_uint) -> Result<(), Code> {
    if pending.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    give(current, mode)?;
    give(pending, mode)
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetComputeMode(device: nvmlDevice_t, mode: *mut nvml::nvmlComputeMode_t) -> nvmlReturn_t {
    code(
        ask(device, "nvmlDeviceGetComputeMode")
            .and_then(|_| give(mode, nvml::nvmlComputeMode_enum_NVML_COMPUTEMODE_DEFAULT)),
    )
}
