//! What GPUs report by themselves: a second thread that waits for the library's events and passes them on as plain data.
#![allow(unsafe_code, reason = "the wrapper drops event types that it doesn't know")]
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use aliquot_model::{GpuUuid, Xid};
use nvml_wrapper::{
    Device, EventSet, Nvml as Library,
    bitmasks::event::EventTypes,
    enums::event::XidError,
    error::{NvmlError, nvml_try},
};
use nvml_wrapper_sys::bindings::{nvmlEventTypeGpuRecoveryAction, nvmlEventTypeGpuUnavailableError};
use tokio::sync::mpsc;

use crate::{Error, desk::start};

/// The longest that one wait takes, and with it the end of the thread, in milliseconds.
const WAIT: u32 = 1_000;

/// A watch that ended sooner than this ends at once the next time as well.
const SETTLED: Duration = Duration::from_secs(10);

/// What happened to a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuEvent {
    /// Which one; none where the library only says that it is one of them.
    pub gpu: Option<GpuUuid>,
    /// What.
    pub kind: EventKind,
}

/// What a GPU reports by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// `nvmlEventTypeXidCriticalError`, with the last number that the driver saw: of several in a short time, NVML gives
    /// the last one for each.
    Xid(Xid),
    /// `nvmlEventTypeDoubleBitEccError`.
    DoubleBitEcc,
    /// `nvmlEventTypeGpuRecoveryAction`, or `nvmlEventTypeGpuUnavailableError`: what the GPU needs is now another thing.
    Recovery,
    /// A GPU is gone (`NVML_ERROR_GPU_IS_LOST`). A reading tells which; until it begins another watch, nothing is heard.
    Lost,
}

/// Waits for events until it is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    gpus: Vec<GpuUuid>,
    since: Instant,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Begins in a session of its own, which has to end before the library can be opened anew.
    pub(crate) fn begin(path: PathBuf, gpus: Vec<GpuUuid>, to: mpsc::UnboundedSender<GpuEvent>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, watched) = (Arc::clone(&stop), gpus.clone());
        let thread = std::thread::Builder::new().name("nvml-events".to_owned()).spawn(move || {
            if let Err(error) = watch(&path, &watched, &to, &stopped) {
                tracing::warn!(%error, "GPUs can't report errors by themselves; they are still read from time to time");
            }
        });
        Self { gpus, since: Instant::now(), stop, thread: thread.ok() }
    }

    /// Whether another one has to begin: these aren't the GPUs, or it has ended and may last longer this time.
    pub(crate) fn is_over(&self, gpus: &[GpuUuid]) -> bool {
        let has_ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
        self.gpus != gpus || (has_ended && self.since.elapsed() > SETTLED)
    }
}

impl Drop for Watch {
    /// Waits for the thread, as its session keeps the library from being opened anew.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // What it would say if it had panicked is in the log.
            let _ = thread.join();
        }
    }
}

fn watch(path: &Path, gpus: &[GpuUuid], to: &mpsc::UnboundedSender<GpuEvent>, stop: &AtomicBool) -> Result<(), Error> {
    let library = start(path)?;
    let functions = library.lib();
    if functions.nvmlEventSetFree.is_err() || functions.nvmlEventSetWait_v2.is_err() {
        // The wrapper's set would call what isn't there when it is dropped.
        return Err(NvmlError::FunctionNotFound.into());
    }
    let (set, watched) = registered(&library, gpus)?;
    for gpu in gpus.iter().filter(|gpu| !watched.values().any(|watched| watched == *gpu)) {
        tracing::warn!(uuid = %gpu, "the GPU can't report errors by itself; it is still read from time to time");
    }
    while !stop.load(Ordering::Relaxed) {
        let event = match set.wait(WAIT) {
            Ok(event) => event,
            Err(NvmlError::Timeout) => continue,
            Err(NvmlError::GpuLost) => {
                // Nobody may listen any more.
                let _ = to.send(GpuEvent { gpu: None, kind: EventKind::Lost });
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        // SAFETY: the handle is only compared.
        let handle = unsafe { event.device.handle() };
        // NVML's number for an Xid that it can't name is 999.
        let xid = event.event_data.map(|xid| if let XidError::Value(number) = xid { Xid(number) } else { Xid(999) });
        if let Some(kind) = kind(event.event_type, xid) {
            let gpu = watched.get(&handle.addr()).cloned();
            if to.send(GpuEvent { gpu, kind }).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// A set to which all GPUs belong that can report anything, and these by their handles.
fn registered<'a>(library: &'a Library, gpus: &[GpuUuid]) -> Result<(EventSet<'a>, BTreeMap<usize, GpuUuid>), Error> {
    let able = |gpu: &GpuUuid| {
        let device = library.device_by_uuid(gpu.as_str()).ok()?;
        let types = supported(library, &device).ok().filter(|types| !types.is_empty())?;
        Some((gpu.clone(), device, types))
    };
    let mut able: Vec<_> = gpus.iter().filter_map(able).collect();
    loop {
        let set = library.create_event_set()?;
        let mut each = able.iter().enumerate();
        // The wrapper frees a set to which a GPU couldn't be added, so that the others have to begin again.
        let set =
            each.try_fold(set, |set, (at, (_, device, types))| device.register_events(*types, set).map_err(|_| at));
        match set {
            Ok(set) => {
                // SAFETY: the handle is only compared.
                let watched = able.into_iter().map(|(gpu, device, _)| (unsafe { device.handle() }.addr(), gpu));
                return Ok((set, watched.collect()));
            }
            Err(at) => drop(able.remove(at)),
        }
    }
}

/// Those of the wanted types that a GPU has (`nvmlDeviceGetSupportedEventTypes`).
fn supported(library: &Library, device: &Device<'_>) -> Result<EventTypes, NvmlError> {
    let wanted = EventTypes::CRITICAL_XID_ERROR | EventTypes::DOUBLE_BIT_ECC_ERROR | recovery();
    let ask = library.lib().nvmlDeviceGetSupportedEventTypes.as_ref().map_err(|_| NvmlError::FunctionNotFound)?;
    let mut types = 0;
    // SAFETY: the handle is of this session, and the number lives through the call.
    nvml_try(unsafe { ask(device.handle(), &raw mut types) })?;
    Ok(EventTypes::from_bits_retain(types) & wanted)
}

fn recovery() -> EventTypes {
    EventTypes::from_bits_retain(u64::from(nvmlEventTypeGpuRecoveryAction | nvmlEventTypeGpuUnavailableError))
}

/// The wrapper drops the types that it doesn't know: of those asked for, only the ones about recovery.
fn kind(types: EventTypes, xid: Option<Xid>) -> Option<EventKind> {
    match xid {
        Some(xid) => Some(EventKind::Xid(xid)),
        None if types.contains(EventTypes::DOUBLE_BIT_ECC_ERROR) => Some(EventKind::DoubleBitEcc),
        None => types.is_empty().then_some(EventKind::Recovery),
    }
}
