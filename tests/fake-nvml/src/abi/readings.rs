//! What an idle GPU measures and how it is set up: the same for every GPU.
use std::ffi::{c_int, c_uint};

use nvml_wrapper_sys::bindings::{self as nvml, nvmlDevice_t, nvmlReturn_t};

use super::{INVALID_ARGUMENT, NOT_SUPPORTED, ask, code, give};
use crate::state::{self, Code};

/// Degrees Celsius.
const IDLE_TEMPERATURE: c_uint = 31;

/// Milliwatts.
const IDLE_POWER: c_uint = 70_000;

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

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetPersistenceMode(
    device: nvmlDevice_t,
    mode: *mut nvml::nvmlEnableState_t,
) -> nvmlReturn_t {
    code(ask(device, "nvmlDeviceGetPersistenceMode").and_then(|_| give(mode, ON)))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetTemperature(
    device: nvmlDevice_t,
    sensor: nvml::nvmlTemperatureSensors_t,
    temperature: *mut c_uint,
) -> nvmlReturn_t {
    code(ask(device, "nvmlDeviceGetTemperature").and_then(|_| match sensor {
        nvml::nvmlTemperatureSensors_enum_NVML_TEMPERATURE_GPU => give(temperature, IDLE_TEMPERATURE),
        _ => Err(INVALID_ARGUMENT),
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetUtilizationRates(
    device: nvmlDevice_t,
    rates: *mut nvml::nvmlUtilization_t,
) -> nvmlReturn_t {
    let idle = nvml::nvmlUtilization_t { gpu: 0, memory: 0 };
    code(ask(device, "nvmlDeviceGetUtilizationRates").and_then(|_| give(rates, idle)))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetPowerUsage(device: nvmlDevice_t, power: *mut c_uint) -> nvmlReturn_t {
    code(ask(device, "nvmlDeviceGetPowerUsage").and_then(|_| give(power, IDLE_POWER)))
}

/// The one field that is known is what a GPU needs before it is used.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetFieldValues(
    device: nvmlDevice_t,
    count: c_int,
    values: *mut nvml::nvmlFieldValue_t,
) -> nvmlReturn_t {
    const NAME: &str = "nvmlDeviceGetFieldValues";
    code(super::view_of(device, NAME).and_then(|(view, gpu)| {
        let count = usize::try_from(count).map_err(|_| INVALID_ARGUMENT)?;
        if values.is_null() || count == 0 {
            return Err(INVALID_ARGUMENT);
        }
        // SAFETY: the caller passes so many values, which are its own.
        for value in unsafe { std::slice::from_raw_parts_mut(values, count) } {
            let action = value.fieldId == nvml::field_id::NVML_FI_DEV_GET_GPU_RECOVERY_ACTION;
            value.nvmlReturn = if action { super::SUCCESS } else { NOT_SUPPORTED };
            value.valueType = nvml::nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_INT;
            value.value.uiVal = view.recovery(gpu);
        }
        Ok(())
    }))
}
