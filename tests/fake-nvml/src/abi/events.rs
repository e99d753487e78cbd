//! Event sets: what the control file says has happened, and the loss of a GPU.
use std::collections::BTreeMap;
use std::ffi::{c_uint, c_ulonglong};
use std::ptr::without_provenance_mut;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nvml_wrapper_sys::bindings::{self as nvml, nvmlDevice_t, nvmlEventSet_t, nvmlReturn_t};

use super::{INVALID_ARGUMENT, LOST, ask, code, give, handle};
use crate::state::{self, Code, View};

const WAIT: &str = "nvmlEventSetWait_v2";

/// The event types of data centre GPUs.
const SUPPORTED: c_ulonglong = (nvml::nvmlEventTypeSingleBitEccError
    | nvml::nvmlEventTypeDoubleBitEccError
    | nvml::nvmlEventTypePState
    | nvml::nvmlEventTypeXidCriticalError
    | nvml::nvmlEventTypeClock
    | nvml::nvmlEventTypeGpuRecoveryAction) as c_ulonglong;

/// How often a waiting call looks whether its GPUs are still there.
const LOOK: Duration = Duration::from_millis(10);

struct Sets {
    by_id: BTreeMap<usize, Listening>,
    last_id: usize,
}

struct Listening {
    /// By UUID: the types that are wanted of a GPU.
    gpus: BTreeMap<String, c_ulonglong>,
    /// How much of what has happened was given, or came before.
    past: usize,
}

static SETS: Mutex<Sets> = Mutex::new(Sets { by_id: BTreeMap::new(), last_id: 0 });

fn sets() -> MutexGuard<'static, Sets> {
    SETS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlEventSetCreate(set: *mut nvmlEventSet_t) -> nvmlReturn_t {
    code(state::view("nvmlEventSetCreate").and_then(|view| {
        let mut sets = sets();
        let id = sets.last_id + 1;
        give(set, without_provenance_mut(id))?;
        sets.last_id = id;
        sets.by_id.insert(id, Listening { gpus: BTreeMap::new(), past: view.events().len() });
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
        sets.by_id.get_mut(&set.addr()).ok_or(INVALID_ARGUMENT)?.gpus.insert(gpu.uuid.clone(), types);
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlEventSetWait_v2(
    set: nvmlEventSet_t,
    event: *mut nvml::nvmlEventData_t,
    timeout_ms: c_uint,
) -> nvmlReturn_t {
    code(wait(set, Duration::from_millis(timeout_ms.into())).and_then(|happened| give(event, happened)))
}

fn wait(set: nvmlEventSet_t, timeout: Duration) -> Result<nvml::nvmlEventData_t, Code> {
    let start = Instant::now();
    loop {
        let view = state::view(WAIT)?;
        if let Some(event) = next(&view, set)? {
            return Ok(event);
        }
        let left = timeout.saturating_sub(start.elapsed());
        if left.is_zero() {
            return Err(nvml::nvmlReturn_enum_NVML_ERROR_TIMEOUT);
        }
        thread::sleep(left.min(LOOK));
    }
}

/// What a set hasn't given yet.
fn next(view: &View, set: nvmlEventSet_t) -> Result<Option<nvml::nvmlEventData_t>, Code> {
    let mut sets = sets();
    let listening = sets.by_id.get_mut(&set.addr()).ok_or(INVALID_ARGUMENT)?;
    while let Some(happening) = view.events().get(listening.past) {
        listening.past += 1;
        let wanted = listening.gpus.get(&happening.gpu).is_some_and(|types| types & happening.kind != 0);
        let place = view.profile.gpus.iter().position(|gpu| gpu.uuid == happening.gpu);
        if let (true, Some(place)) = (wanted, place) {
            return Ok(Some(nvml::nvmlEventData_t {
                device: handle(place),
                eventType: happening.kind,
                eventData: happening.data,
                gpuInstanceId: c_uint::MAX,
                computeInstanceId: c_uint::MAX,
            }));
        }
    }
    let is_lost = |gpu: &crate::GpuProfile| listening.gpus.contains_key(&gpu.uuid) && view.is_removed(gpu);
    if view.profile.gpus.iter().any(is_lost) { Err(LOST) } else { Ok(None) }
}
