//! Limits of a cgroup's memory on a GPU, which NVML has from release 13.4 on and the bindings don't know yet.
use std::{
    ffi::{c_char, c_ulonglong},
    os::unix::fs::MetadataExt,
    path::Path,
};

use nvml_wrapper_sys::bindings::{self as nvml, nvmlDevice_t, nvmlReturn_t};

use super::{INVALID_ARGUMENT, NOT_FOUND, NOT_SUPPORTED, code, taken, view_of};
use crate::{
    GpuProfile, Limit, limits,
    state::{Code, View},
};

const OPERATING_SYSTEM: Code = nvml::nvmlReturn_enum_NVML_ERROR_OPERATING_SYSTEM;

/// `NVML_DEVICE_MEMORY_LIMIT_MAX`.
const MAX: c_ulonglong = c_ulonglong::MAX;

/// `nvmlSetMemoryLimits_v1_t`.
#[repr(C)]
#[derive(Debug)]
pub struct SetMemoryLimits {
    name_space: *const c_char,
    soft: c_ulonglong,
    hard: c_ulonglong,
}

/// `nvmlGetMemoryLimits_v1_t`.
#[repr(C)]
#[derive(Debug)]
pub struct GetMemoryLimits {
    name_space: *const c_char,
    soft: c_ulonglong,
    hard: c_ulonglong,
    used: c_ulonglong,
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceSetMemoryLimits_v1(device: nvmlDevice_t, limits: *mut SetMemoryLimits) -> nvmlReturn_t {
    code(view_of(device, "nvmlDeviceSetMemoryLimits_v1").and_then(|(_, gpu)| set(gpu, limits)))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMemoryLimits_v1(device: nvmlDevice_t, limits: *mut GetMemoryLimits) -> nvmlReturn_t {
    code(view_of(device, "nvmlDeviceGetMemoryLimits_v1").and_then(|(view, gpu)| get(&view, gpu, limits)))
}

fn set(gpu: &GpuProfile, limits: *const SetMemoryLimits) -> Result<(), Code> {
    // SAFETY: null or a structure that the caller filled in and that lives through the call.
    let limits = unsafe { limits.as_ref() }.ok_or(INVALID_ARGUMENT)?;
    let cgroup = taken(limits.name_space)?;
    if !gpu.memory_limits {
        return Err(NOT_SUPPORTED);
    }
    let SetMemoryLimits { soft, hard, .. } = *limits;
    if soft > hard || soft > gpu.memory || (hard > gpu.memory && hard != MAX) {
        return Err(INVALID_ARGUMENT);
    }
    let inode = inode(cgroup)?;
    limits::change(|limits| {
        let of_gpu = limits.0.entry(gpu.uuid.clone()).or_default();
        if (soft, hard) == (0, MAX) {
            of_gpu.remove(cgroup);
        } else {
            of_gpu.insert(cgroup.to_owned(), Limit { soft, hard, inode });
        }
    })
    .map_err(|_| nvml::nvmlReturn_enum_NVML_ERROR_UNKNOWN)
}

fn get(view: &View, gpu: &GpuProfile, limits: *mut GetMemoryLimits) -> Result<(), Code> {
    // SAFETY: null or a structure of which the caller filled in the path, and that only this call uses while it lasts.
    let limits = unsafe { limits.as_mut() }.ok_or(INVALID_ARGUMENT)?;
    let cgroup = taken(limits.name_space)?;
    if !gpu.memory_limits {
        return Err(NOT_SUPPORTED);
    }
    let inode = inode(cgroup)?;
    let set = limits::read();
    let found = set.0.get(&gpu.uuid).and_then(|of_gpu| of_gpu.get(cgroup));
    // A cgroup that was removed took its limits with it, even if another has its name now.
    let found = found.filter(|limit| limit.inode == inode).ok_or(NOT_FOUND)?;
    limits.soft = found.soft;
    limits.hard = found.hard;
    limits.used = used(view, gpu, Path::new(cgroup));
    Ok(())
}

fn inode(cgroup: &str) -> Result<u64, Code> {
    Path::new(cgroup).metadata().map(|meta| meta.ino()).map_err(|_| OPERATING_SYSTEM)
}

/// What the processes in a cgroup and below it use.
fn used(view: &View, gpu: &GpuProfile, cgroup: &Path) -> u64 {
    let is_inside = |pid: u32| {
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let unified = groups.lines().find_map(|line| line.strip_prefix("0::/"));
        unified.is_some_and(|path| Path::new("/sys/fs/cgroup").join(path).starts_with(cgroup))
    };
    view.processes(gpu).filter(|process| is_inside(process.pid)).filter_map(|process| process.used).sum()
}
