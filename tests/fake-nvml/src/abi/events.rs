//! Event sets. Nothing ever happens on one but the loss of a GPU.
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{c_uint, c_ulonglong};
use std::ptr::without_provenance_mut;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nvml_wrapper_sys::bindings::{self as nvml, nvmlDevice_t, nvmlEventSet_t, nvmlReturn_t};

use super::{INVALID_ARGUMENT, LOST, ask, code, give};
use crate::state::{self, Code};

const WAIT: &str = "nvmlEventSetWait_v2";

/// The event types of data centre GPUs.
const SUPPORTED: c_ulonglong = (nvml::nvmlEventTypeSingleBitEccError
    | nvml::nvmlEventTypeDoubleBitEccError
    | nvml::nvmlEventTypePState
    | nvml::nvmlEventTypeXidCriticalError
    | nvml::nvmlEventTypeClock) as c_ulonglong;

/// How often a waiting call looks whether its GPUs are still there.
const LOOK: Duration = Duration::from_millis(10);

struct Sets {
    /// UUIDs of the GPUs that each set listens to.
    by_id: BTreeMap<usize, BTreeSet<String>>,
    last_id: usize,
}

static SETS: Mutex<Sets> = Mutex::new(Sets { by_id: BTreeMap::new(), last_id: 0 });

fn sets() -> MutexGuard<'static, Sets> {
    SETS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlEventSetCreate(set: *mut nvmlEventSet_t) -> nvmlReturn_t {
    code(state::view("nvmlEventSetCreate").and_then(|_| {
        let mut sets = sets();
        let id = sets.last_id + 1;
        give(set, without_provenance_mut(id))?;
        sets.last_id = id;
        sets.by_id.insert(id, BTreeSet::new());
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlEventSetFree(set: nvmlEventSet_t) -> nvmlReturn_t {
    code(
        state::view("nvmlEventSetFree")
            .and_then(|_| sets().by_id.remove(&set.addr()).map(drop).ok_or(INVALID_ARGUMENT)),
    )
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetSupportedEventTypes(device: nvmlDevice_t, types: *mut c_ulonglong) -> nvmlReturn_t {
    code(ask(device, "nvmlDeviceGetSupportedEventTypes").and_then(|_| give(types, SUPPORTED)))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceRegisterEvents(
    device: nvmlDevice_t,
    types: c_ulonglong,
    set: nvmlEventSet_t,
) -> nvmlReturn_t {
    code(ask(device, "nvmlDeviceRegisterEvents").and_then(|gpu| {
        if types & !SUPPORTED != 0 {
            return Err(nvml::nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED);
        }
        let mut sets = sets();
        sets.by_id.get_mut(&set.addr()).ok_or(INVALID_ARGUMENT)?.insert(gpu.uuid.clone());
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlEventSetWait_v2(
    set: nvmlEventSet_t,
    event: *mut nvml::nvmlEventData_t,
    timeout_ms: c_uint,
) -> nvmlReturn_t {
    if event.is_null() {
        return INVALID_ARGUMENT;
    }
    wait(set, Duration::from_millis(timeout_ms.into()))
}

/// Always an error, for there are no events to give.
fn wait(set: nvmlEventSet_t, timeout: Duration) -> Code {
    let start = Instant::now();
    loop {
        let view = match state::view(WAIT) {
            Ok(view) => view,
            Err(code) => return code,
        };
        let Some(uuids) = sets().by_id.get(&set.addr()).cloned() else { return INVALID_ARGUMENT };
        if view.profile.gpus.iter().any(|gpu| uuids.contains(&gpu.uuid) && view.is_removed(gpu)) {
            return LOST;
        }
        let left = timeout.saturating_sub(start.elapsed());
        if left.is_zero() {
            return nvml::nvmlReturn_enum_NVML_ERROR_TIMEOUT;
        }
        thread::sleep(left.min(LOOK));
    }
}
