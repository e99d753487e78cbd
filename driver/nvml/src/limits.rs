//! A cgroup's memory limits on a GPU: NVML's calls of release 13.4, which the wrapper doesn't know yet.
#![allow(unsafe_code, reason = "C functions of which only this file knows the types")]
use std::{
    ffi::{CString, c_char, c_ulonglong},
    mem::offset_of,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use aliquot_model::Memory;
use libloading::{Library, Symbol};
use nvml_wrapper::{
    Device,
    error::{NvmlError, nvml_try},
};
use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlReturn_t};

/// `NVML_DEVICE_MEMORY_LIMIT_MAX`.
const MAX: c_ulonglong = c_ulonglong::MAX;

/// `nvmlSetMemoryLimits_v1_t`.
#[repr(C)]
struct Set {
    name_space: *const c_char,
    soft: c_ulonglong,
    hard: c_ulonglong,
}

/// `nvmlGetMemoryLimits_v1_t`.
#[repr(C)]
struct Get {
    name_space: *const c_char,
    soft: c_ulonglong,
    hard: c_ulonglong,
    used: c_ulonglong,
}

// As a C compiler lays NVML's header out on the 64-bit machines that NVIDIA has a driver for.
const _: () = {
    assert!(size_of::<Set>() == 24 && offset_of!(Set, soft) == 8 && offset_of!(Set, hard) == 16);
    assert!(size_of::<Get>() == 32 && offset_of!(Get, soft) == 8 && offset_of!(Get, hard) == 16);
    assert!(offset_of!(Get, used) == 24 && align_of::<Set>() == 8 && align_of::<Get>() == 8);
};

type SetLimits = unsafe extern "C" fn(nvmlDevice_t, *mut Set) -> nvmlReturn_t;
type GetLimits = unsafe extern "C" fn(nvmlDevice_t, *mut Get) -> nvmlReturn_t;

/// What a cgroup's processes may have of a GPU's memory (`nvmlDeviceGetMemoryLimits_v1`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryLimits {
    /// What they are sure of.
    pub soft: Memory,
    /// Over which they get no more; none is no limit.
    pub hard: Option<Memory>,
    /// What they have now.
    pub used: Memory,
}

/// Whether the library and the GPU know limits at all: they can tell of the driver's own cgroup that it has none.
pub(crate) fn are_known(library: &Path, device: &Device<'_>) -> bool {
    has_set(library) && own_cgroup().is_some_and(|cgroup| get(library, device, &cgroup).is_ok())
}

/// `nvmlDeviceSetMemoryLimits_v1`.
pub(crate) fn set(
    library: &Path,
    device: &Device<'_>,
    cgroup: &Path,
    soft: Memory,
    hard: Option<Memory>,
) -> Result<(), NvmlError> {
    let library = open(library)?;
    let cgroup = c_path(cgroup)?;
    let mut limits = Set { name_space: cgroup.as_ptr(), soft: soft.bytes(), hard: hard.map_or(MAX, Memory::bytes) };
    // SAFETY: NVML has this function with this type; it isn't called once the library is closed, at this function's end.
    let set: Symbol<'_, SetLimits> =
        unsafe { library.get(b"nvmlDeviceSetMemoryLimits_v1\0") }.map_err(|error| missing(&error))?;
    // SAFETY: the handle is of the session that is open, and the structure and its path live through the call.
    nvml_try(unsafe { set(device.handle(), &raw mut limits) })
}

/// `nvmlDeviceGetMemoryLimits_v1`; none were set where it finds none.
pub(crate) fn get(library: &Path, device: &Device<'_>, cgroup: &Path) -> Result<Option<MemoryLimits>, NvmlError> {
    let library = open(library)?;
    let cgroup = c_path(cgroup)?;
    let mut limits = Get { name_space: cgroup.as_ptr(), soft: 0, hard: MAX, used: 0 };
    // SAFETY: NVML has this function with this type; it isn't called once the library is closed, at this function's end.
    let get: Symbol<'_, GetLimits> =
        unsafe { library.get(b"nvmlDeviceGetMemoryLimits_v1\0") }.map_err(|error| missing(&error))?;
    // SAFETY: the handle is of the session that is open, and the structure and its path live through the call.
    match nvml_try(unsafe { get(device.handle(), &raw mut limits) }) {
        Ok(()) => Ok(Some(MemoryLimits {
            soft: Memory::from_bytes(limits.soft),
            hard: (limits.hard != MAX).then(|| Memory::from_bytes(limits.hard)),
            used: Memory::from_bytes(limits.used),
        })),
        Err(NvmlError::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

fn has_set(library: &Path) -> bool {
    let Ok(library) = open(library) else { return false };
    // SAFETY: it is only looked up.
    unsafe { library.get::<SetLimits>(b"nvmlDeviceSetMemoryLimits_v1\0") }.is_ok()
}

/// The library that is open already: the loader counts its users and gives the same one for the same path.
fn open(library: &Path) -> Result<Library, NvmlError> {
    // SAFETY: its initialisers ran when the session was begun.
    unsafe { Library::new(library) }.map_err(NvmlError::LibloadingError)
}

/// An older library.
fn missing(error: &libloading::Error) -> NvmlError {
    NvmlError::FailedToLoadSymbol(error.to_string())
}

fn c_path(path: &Path) -> Result<CString, NvmlError> {
    CString::new(path.as_os_str().as_bytes()).map_err(NvmlError::NulError)
}

fn own_cgroup() -> Option<PathBuf> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let unified = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(Path::new("/sys/fs/cgroup").join(unified))
}
