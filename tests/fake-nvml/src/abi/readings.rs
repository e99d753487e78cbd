//! What a GPU measures, as its readings have it, and how it is set up: the same for every GPU.
use std::ffi::{c_int, c_uint, c_ulonglong};

use nvml_wrapper_sys::bindings::{self as nvml, nvmlDevice_t, nvmlReturn_t};

use super::{INVALID_ARGUMENT, NOT_SUPPORTED, ask, code, give, view_of};
use crate::{
    Readings,
    state::{self, Code},
};

const OFF: c_uint = 0;
const ON: c_uint = 1;

/// What the GPU's readings say in answer to a question, if anything.
fn read<T>(device: nvmlDevice_t, function: &str, answer: impl FnOnce(Readings) -> Option<T>) -> Result<T, Code> {
    let (view, gpu) = view_of(device, function)?;
    answer(view.readings(gpu)).ok_or(NOT_SUPPORTED)
}

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
    let answer = read(device, "nvmlDeviceGetTemperature", |readings| readings.temperature);
    code(answer.and_then(|degrees| match sensor {
        nvml::nvmlTemperatureSensors_enum_NVML_TEMPERATURE_GPU => give(temperature, degrees),
        _ => Err(INVALID_ARGUMENT),
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetUtilizationRates(
    device: nvmlDevice_t,
    rates: *mut nvml::nvmlUtilization_t,
) -> nvmlReturn_t {
    let answer = read(device, "nvmlDeviceGetUtilizationRates", |readings| readings.busy);
    code(answer.and_then(|[gpu, memory]| give(rates, nvml::nvmlUtilization_t { gpu, memory })))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetPowerUsage(device: nvmlDevice_t, power: *mut c_uint) -> nvmlReturn_t {
    code(read(device, "nvmlDeviceGetPowerUsage", |readings| readings.power).and_then(|mw| give(power, mw)))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetEnforcedPowerLimit(device: nvmlDevice_t, limit: *mut c_uint) -> nvmlReturn_t {
    code(
        read(device, "nvmlDeviceGetEnforcedPowerLimit", |readings| readings.power_limit).and_then(|mw| give(limit, mw)),
    )
}

/// Each process that did anything, once.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetProcessUtilization(
    device: nvmlDevice_t,
    samples: *mut nvml::nvmlProcessUtilizationSample_t,
    count: *mut c_uint,
    since: c_ulonglong,
) -> nvmlReturn_t {
    let answer = read(device, "nvmlDeviceGetProcessUtilization", |readings| readings.processes);
    code(answer.and_then(|processes| {
        let sample = |(pid, sm): (u32, u32)| nvml::nvmlProcessUtilizationSample_t {
            pid,
            timeStamp: since + 1,
            smUtil: sm,
            memUtil: 0,
            encUtil: 0,
            decUtil: 0,
        };
        let all: Vec<_> = processes.into_iter().map(sample).collect();
        if all.is_empty() {
            return Err(super::NOT_FOUND);
        }
        if count.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        // SAFETY: not null, and the caller has set it to the number of elements in its buffer.
        let room = if samples.is_null() { 0 } else { unsafe { count.read() } };
        give(count, c_uint::try_from(all.len()).unwrap_or(c_uint::MAX))?;
        if (room as usize) < all.len() {
            return Err(super::TOO_SMALL);
        }
        // SAFETY: the caller's buffer has room for as many elements.
        unsafe { samples.copy_from_nonoverlapping(all.as_ptr(), all.len()) };
        Ok(())
    }))
}

/// The one field that is known is what a GPU needs before it is used.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetFieldValues(
    device: nvmlDevice_t,
    count: c_int,
    values: *mut nvml::nvmlFieldValue_t,
) -> nvmlReturn_t {
    const NAME: &str = "nvmlDeviceGetFieldValues";
    code(view_of(device, NAME).and_then(|(view, gpu)| {
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
