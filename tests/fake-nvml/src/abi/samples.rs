//! What a GPU measures, as its readings have it.
use std::ffi::{c_int, c_uint, c_ulonglong};

use nvml_wrapper_sys::bindings::{self as nvml, nvmlDevice_t, nvmlReturn_t};

use super::{INVALID_ARGUMENT, NOT_FOUND, NOT_SUPPORTED, SUCCESS, TOO_SMALL, code, give, view_of};
use crate::{Readings, state::Code};

/// What the GPU's readings say in answer to a question, if anything.
fn read<T>(device: nvmlDevice_t, function: &str, answer: impl FnOnce(&Readings) -> Option<T>) -> Result<T, Code> {
    let (view, gpu) = view_of(device, function)?;
    answer(&view.readings(gpu)).ok_or(NOT_SUPPORTED)
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
pub extern "C" fn nvmlDeviceGetEncoderUtilization(
    device: nvmlDevice_t,
    utilization: *mut c_uint,
    period: *mut c_uint,
) -> nvmlReturn_t {
    let answer = read(device, "nvmlDeviceGetEncoderUtilization", |readings| readings.encoder);
    code(answer.and_then(|busy| give(utilization, busy).and_then(|()| give(period, 1_000_000))))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetDecoderUtilization(
    device: nvmlDevice_t,
    utilization: *mut c_uint,
    period: *mut c_uint,
) -> nvmlReturn_t {
    let answer = read(device, "nvmlDeviceGetDecoderUtilization", |readings| readings.decoder);
    code(answer.and_then(|busy| give(utilization, busy).and_then(|()| give(period, 1_000_000))))
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

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetClockInfo(
    device: nvmlDevice_t,
    kind: nvml::nvmlClockType_t,
    clock: *mut c_uint,
) -> nvmlReturn_t {
    let answer = read(device, "nvmlDeviceGetClockInfo", |readings| readings.clocks);
    code(answer.and_then(|[sm, memory]| match kind {
        nvml::nvmlClockType_enum_NVML_CLOCK_GRAPHICS | nvml::nvmlClockType_enum_NVML_CLOCK_SM => give(clock, sm),
        nvml::nvmlClockType_enum_NVML_CLOCK_MEM => give(clock, memory),
        _ => Err(NOT_SUPPORTED),
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetCurrentClocksThrottleReasons(
    device: nvmlDevice_t,
    reasons: *mut c_ulonglong,
) -> nvmlReturn_t {
    let answer = read(device, "nvmlDeviceGetCurrentClocksThrottleReasons", |readings| readings.throttled);
    code(answer.and_then(|bits| give(reasons, bits)))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetPcieThroughput(
    device: nvmlDevice_t,
    counter: nvml::nvmlPcieUtilCounter_t,
    rate: *mut c_uint,
) -> nvmlReturn_t {
    let answer = read(device, "nvmlDeviceGetPcieThroughput", |readings| readings.pcie_rate);
    code(answer.and_then(|[sent, received]| match counter {
        nvml::nvmlPcieUtilCounter_enum_NVML_PCIE_UTIL_TX_BYTES => give(rate, sent),
        nvml::nvmlPcieUtilCounter_enum_NVML_PCIE_UTIL_RX_BYTES => give(rate, received),
        _ => Err(INVALID_ARGUMENT),
    }))
}

/// Each process that did anything, once.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetProcessUtilization(
    device: nvmlDevice_t,
    samples: *mut nvml::nvmlProcessUtilizationSample_t,
    count: *mut c_uint,
    since: c_ulonglong,
) -> nvmlReturn_t {
    let answer = read(device, "nvmlDeviceGetProcessUtilization", |readings| readings.processes.clone());
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
            return Err(NOT_FOUND);
        }
        if count.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        // SAFETY: not null, and the caller has set it to the number of elements in its buffer.
        let room = if samples.is_null() { 0 } else { unsafe { count.read() } };
        give(count, c_uint::try_from(all.len()).unwrap_or(c_uint::MAX))?;
        if (room as usize) < all.len() {
            return Err(TOO_SMALL);
        }
        // SAFETY: the caller's buffer has room for as many elements.
        unsafe { samples.copy_from_nonoverlapping(all.as_ptr(), all.len()) };
        Ok(())
    }))
}

/// The readings' fields, and what a GPU needs before it is used.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetFieldValues(
    device: nvmlDevice_t,
    count: c_int,
    values: *mut nvml::nvmlFieldValue_t,
) -> nvmlReturn_t {
    code(view_of(device, "nvmlDeviceGetFieldValues").and_then(|(view, gpu)| {
        let count = usize::try_from(count).map_err(|_| INVALID_ARGUMENT)?;
        if values.is_null() || count == 0 {
            return Err(INVALID_ARGUMENT);
        }
        let readings = view.readings(gpu);
        // SAFETY: the caller passes so many values, which are its own.
        for value in unsafe { std::slice::from_raw_parts_mut(values, count) } {
            let answer = match value.fieldId {
                nvml::field_id::NVML_FI_DEV_GET_GPU_RECOVERY_ACTION => Some(u64::from(view.recovery(gpu))),
                // One link of several has less than all together; nobody asks for one.
                nvml::field_id::NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX
                | nvml::field_id::NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX
                    if value.scopeId != c_uint::MAX =>
                {
                    Some(0)
                }
                field => readings.fields.get(&field).copied(),
            };
            value.nvmlReturn = if answer.is_some() { SUCCESS } else { NOT_SUPPORTED };
            value.valueType = nvml::nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_LONG_LONG;
            value.value.ullVal = answer.unwrap_or_default();
        }
        Ok(())
    }))
}
