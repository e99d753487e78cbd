//! Persistence mode.
use std::ffi::c_uint;

use nvml_wrapper_sys::bindings::{self as nvml, nvmlDevice_t, nvmlReturn_t};

use super::{INVALID_ARGUMENT, ask, code, give};
use crate::marks;

const ON: c_uint = nvml::nvmlEnableState_enum_NVML_FEATURE_ENABLED;
const OFF: c_uint = nvml::nvmlEnableState_enum_NVML_FEATURE_DISABLED;
const UNKNOWN: u32 = nvml::nvmlReturn_enum_NVML_ERROR_UNKNOWN;

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetPersistenceMode(device: nvmlDevice_t, mode: *mut c_uint) -> nvmlReturn_t {
    let ask = ask(device, "nvmlDeviceGetPersistenceMode");
    code(ask.and_then(|gpu| give(mode, if marks::persists(&gpu.uuid) { ON } else { OFF })))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceSetPersistenceMode(device: nvmlDevice_t, mode: c_uint) -> nvmlReturn_t {
    code(ask(device, "nvmlDeviceSetPersistenceMode").and_then(|gpu| match mode {
        ON | OFF => marks::set_persists(&gpu.uuid, mode == ON).map_err(|_| UNKNOWN),
        _ => Err(INVALID_ARGUMENT),
    }))
}
