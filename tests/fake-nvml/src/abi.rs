//! The functions that programs look up, with NVML's own names, structures and error codes.
#![allow(non_snake_case, reason = "the names are NVML's")]
#![allow(unreachable_pub, reason = "the linker's idea of public is another one")]
#![allow(clippy::missing_safety_doc, missing_docs, reason = "NVML's documentation describes them")]

mod events;
mod limits;
mod persistence;
mod processes;
mod readings;
mod samples;

use std::{
    ffi::{CStr, c_char, c_int, c_uint, c_ulonglong},
    ptr::without_provenance_mut,
};

use nvml_wrapper_sys::bindings::{
    self as nvml, nvmlDevice_t, nvmlMemory_t, nvmlMemory_v2_t, nvmlPciInfo_t, nvmlReturn_t,
};

use crate::{
    GpuProfile,
    state::{self, Code, View},
};

const SUCCESS: Code = nvml::nvmlReturn_enum_NVML_SUCCESS;
const INVALID_ARGUMENT: Code = nvml::nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT;
const NOT_SUPPORTED: Code = nvml::nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED;
const NOT_FOUND: Code = nvml::nvmlReturn_enum_NVML_ERROR_NOT_FOUND;
const TOO_SMALL: Code = nvml::nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE;
const LOST: Code = nvml::nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST;
const WRONG_VERSION: Code = nvml::nvmlReturn_enum_NVML_ERROR_ARGUMENT_VERSION_MISMATCH;

fn code(result: Result<(), Code>) -> nvmlReturn_t {
    result.err().unwrap_or(SUCCESS)
}

/// Writes through a caller's pointer.
fn give<T>(to: *mut T, value: T) -> Result<(), Code> {
    if to.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: the caller passes a pointer to a value of this type, as NVML's contract has it; null was ruled out.
    unsafe { to.write(value) };
    Ok(())
}

/// Writes a text with its NUL into a caller's buffer.
fn give_text(to: *mut c_char, length: c_uint, text: &str) -> Result<(), Code> {
    if to.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    if length as usize <= text.len() {
        return Err(TOO_SMALL);
    }
    // SAFETY: the caller's buffer has `length` bytes, more than the text and its NUL need.
    unsafe {
        to.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), text.len());
        to.cast::<u8>().add(text.len()).write(0);
    }
    Ok(())
}

/// Reads a caller's text.
fn taken<'a>(text: *const c_char) -> Result<&'a str, Code> {
    if text.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: the caller passes a string that ends in NUL and lives through the call.
    unsafe { CStr::from_ptr(text) }.to_str().map_err(|_| INVALID_ARGUMENT)
}

/// A handle is the GPU's place in the profile, plus one as null is no handle.
fn handle(place: usize) -> nvmlDevice_t {
    without_provenance_mut(place + 1)
}

/// The GPU behind a handle, unless it is gone or this question is to fail.
fn ask(device: nvmlDevice_t, function: &str) -> Result<&'static GpuProfile, Code> {
    view_of(device, function).map(|(_, gpu)| gpu)
}

/// The same, with all that this call sees.
fn view_of(device: nvmlDevice_t, function: &str) -> Result<(View, &'static GpuProfile), Code> {
    let view = state::view(function)?;
    let place = device.addr().checked_sub(1).ok_or(INVALID_ARGUMENT)?;
    let gpu = view.profile.gpus.get(place).ok_or(INVALID_ARGUMENT)?;
    if view.is_removed(gpu) {
        return Err(LOST);
    }
    view.hang(gpu, function);
    match view.error(gpu, function) {
        Some(error) => Err(error),
        None => Ok((view, gpu)),
    }
}

fn find(function: &str, device: *mut nvmlDevice_t, is_it: impl Fn(&GpuProfile) -> bool) -> Result<(), Code> {
    let view = state::view(function)?;
    let mut all = view.profile.gpus.iter().enumerate();
    let (place, gpu) = all.find(|(_, gpu)| is_it(gpu)).filter(|(_, gpu)| view.sees(gpu)).ok_or(NOT_FOUND)?;
    handle_of(&view, place, gpu, function, device)
}

/// Only an error that names the function keeps the handle back: a lost GPU is still listed.
fn handle_of(view: &View, place: usize, gpu: &GpuProfile, function: &str, to: *mut nvmlDevice_t) -> Result<(), Code> {
    let all = view.error(gpu, "*");
    match view.error(gpu, function) {
        Some(error) if Some(error) != all => Err(error),
        _ => give(to, handle(place)),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> nvmlReturn_t {
    code(state::init())
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlInitWithFlags(_flags: c_uint) -> nvmlReturn_t {
    code(state::init())
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlShutdown() -> nvmlReturn_t {
    code(state::shutdown())
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlErrorString(result: nvmlReturn_t) -> *const c_char {
    let text: &CStr = match result {
        SUCCESS => c"Success",
        nvml::nvmlReturn_enum_NVML_ERROR_DRIVER_NOT_LOADED => c"Driver Not Loaded",
        LOST => c"GPU is lost",
        NOT_FOUND => c"Not Found",
        NOT_SUPPORTED => c"Not Supported",
        _ => c"Unknown Error",
    };
    text.as_ptr()
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlSystemGetDriverVersion(version: *mut c_char, length: c_uint) -> nvmlReturn_t {
    code(
        state::view("nvmlSystemGetDriverVersion")
            .and_then(|view| give_text(version, length, &view.profile.driver_version)),
    )
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlSystemGetNVMLVersion(version: *mut c_char, length: c_uint) -> nvmlReturn_t {
    code(state::view("nvmlSystemGetNVMLVersion").and_then(|view| {
        let major = view.profile.cuda_driver_version / 1000;
        give_text(version, length, &format!("{major}.{}", view.profile.driver_version))
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlSystemGetCudaDriverVersion_v2(version: *mut c_int) -> nvmlReturn_t {
    code(
        state::view("nvmlSystemGetCudaDriverVersion_v2")
            .and_then(|view| give(version, view.profile.cuda_driver_version)),
    )
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetCount_v2(count: *mut c_uint) -> nvmlReturn_t {
    code(
        state::view("nvmlDeviceGetCount_v2")
            .and_then(|view| give(count, c_uint::try_from(view.gpus().count()).unwrap_or(c_uint::MAX))),
    )
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: *mut nvmlDevice_t) -> nvmlReturn_t {
    const NAME: &str = "nvmlDeviceGetHandleByIndex_v2";
    code(state::view(NAME).and_then(|view| {
        let (place, gpu) = view.gpus().nth(index as usize).ok_or(INVALID_ARGUMENT)?;
        handle_of(&view, place, gpu, NAME, device)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, device: *mut nvmlDevice_t) -> nvmlReturn_t {
    code(taken(uuid).and_then(|uuid| find("nvmlDeviceGetHandleByUUID", device, |gpu| gpu.uuid == uuid)))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetHandleByPciBusId_v2(bus_id: *const c_char, device: *mut nvmlDevice_t) -> nvmlReturn_t {
    code(taken(bus_id).and_then(|bus_id| {
        find("nvmlDeviceGetHandleByPciBusId_v2", device, |gpu| bus_id.to_ascii_lowercase().ends_with(&gpu.pci))
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetName(device: nvmlDevice_t, name: *mut c_char, length: c_uint) -> nvmlReturn_t {
    code(ask(device, "nvmlDeviceGetName").and_then(|gpu| give_text(name, length, &gpu.name)))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetUUID(device: nvmlDevice_t, uuid: *mut c_char, length: c_uint) -> nvmlReturn_t {
    code(ask(device, "nvmlDeviceGetUUID").and_then(|gpu| give_text(uuid, length, &gpu.uuid)))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetSerial(device: nvmlDevice_t, serial: *mut c_char, length: c_uint) -> nvmlReturn_t {
    code(ask(device, "nvmlDeviceGetSerial").and_then(|gpu| give_text(serial, length, &gpu.serial)))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetIndex(device: nvmlDevice_t, index: *mut c_uint) -> nvmlReturn_t {
    code(ask(device, "nvmlDeviceGetIndex").and_then(|gpu| {
        let view = state::view("nvmlDeviceGetIndex")?;
        let index_of = view.gpus().position(|(_, other)| other.uuid == gpu.uuid).ok_or(LOST)?;
        give(index, c_uint::try_from(index_of).unwrap_or(c_uint::MAX))
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMinorNumber(device: nvmlDevice_t, minor: *mut c_uint) -> nvmlReturn_t {
    code(ask(device, "nvmlDeviceGetMinorNumber").and_then(|gpu| give(minor, gpu.minor)))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetBrand(device: nvmlDevice_t, brand: *mut c_uint) -> nvmlReturn_t {
    code(ask(device, "nvmlDeviceGetBrand").and_then(|gpu| give(brand, gpu.brand)))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetArchitecture(device: nvmlDevice_t, architecture: *mut c_uint) -> nvmlReturn_t {
    code(ask(device, "nvmlDeviceGetArchitecture").and_then(|gpu| give(architecture, gpu.architecture)))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetCudaComputeCapability(
    device: nvmlDevice_t,
    major: *mut c_int,
    minor: *mut c_int,
) -> nvmlReturn_t {
    code(ask(device, "nvmlDeviceGetCudaComputeCapability").and_then(|gpu| {
        let [its_major, its_minor] = gpu.compute_capability;
        give(major, its_major)?;
        give(minor, its_minor)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMemoryInfo(device: nvmlDevice_t, memory: *mut nvmlMemory_t) -> nvmlReturn_t {
    code(view_of(device, "nvmlDeviceGetMemoryInfo").and_then(|(view, gpu)| {
        let (total, used): (c_ulonglong, _) = (gpu.memory, view.readings(gpu).memory_used);
        give(memory, nvmlMemory_t { total, free: total.saturating_sub(used), used })
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMemoryInfo_v2(device: nvmlDevice_t, memory: *mut nvmlMemory_v2_t) -> nvmlReturn_t {
    code(view_of(device, "nvmlDeviceGetMemoryInfo_v2").and_then(|(view, gpu)| {
        if memory.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        // SAFETY: not null, and the caller has set the version before the call.
        let version = unsafe { (*memory).version };
        // The structure's size and its second version, as NVML_STRUCT_VERSION makes it.
        let expected = u32::try_from(size_of::<nvmlMemory_v2_t>()).unwrap_or_default() | 2 << 24;
        if version != expected {
            return Err(WRONG_VERSION);
        }
        let (total, used) = (gpu.memory, view.readings(gpu).memory_used);
        give(memory, nvmlMemory_v2_t { version, total, reserved: 0, free: total.saturating_sub(used), used })
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetPciInfo_v3(device: nvmlDevice_t, pci: *mut nvmlPciInfo_t) -> nvmlReturn_t {
    code(ask(device, "nvmlDeviceGetPciInfo_v3").and_then(|gpu| give(pci, pci_info(&gpu.pci).ok_or(INVALID_ARGUMENT)?)))
}

fn pci_info(address: &str) -> Option<nvmlPciInfo_t> {
    let (domain, rest) = address.split_once(':')?;
    let (bus, rest) = rest.split_once(':')?;
    let (slot, _) = rest.split_once('.')?;
    let hex = |text: &str| c_uint::from_str_radix(text, 16).ok();
    let mut info = nvmlPciInfo_t {
        busIdLegacy: [0; 16],
        domain: hex(domain)?,
        bus: hex(bus)?,
        device: hex(slot)?,
        pciDeviceId: 0x2330_10de,
        pciSubSystemId: 0x16c1_10de,
        busId: [0; 32],
    };
    fill(&mut info.busIdLegacy, &address.to_ascii_uppercase());
    // NVML writes the domain with eight digits.
    fill(&mut info.busId, &format!("{:08X}:{}", info.domain, address.split_once(':')?.1.to_ascii_uppercase()));
    Some(info)
}

fn fill(to: &mut [c_char], text: &str) {
    for (to, byte) in to.iter_mut().zip(text.bytes()) {
        *to = c_char::from_ne_bytes([byte]);
    }
}
