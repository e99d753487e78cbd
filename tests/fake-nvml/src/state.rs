//! Which GPUs this process sees at the moment of a call.
use std::{
    borrow::Cow,
    ffi::{CStr, OsString},
    fs::{File, OpenOptions},
    os::unix::fs::{FileTypeExt, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use nvml_wrapper_sys::bindings as nvml;

use crate::{Away, Control, GpuProfile, Happening, Process, Profile, Readings, cached::Cached, settings};

pub(crate) type Code = nvml::nvmlReturn_t;

static STATE: Mutex<State> = Mutex::new(State { users: 0, profile: None, held: Vec::new() });

struct State {
    /// Calls of init without their shutdown.
    users: usize,
    profile: Option<&'static Profile>,
    /// The nodes of its GPUs.
    held: Vec<File>,
}

/// One call's view.
pub(crate) struct View {
    pub(crate) profile: &'static Profile,
    control: Arc<Control>,
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn init() -> Result<(), Code> {
    let control = enter("nvmlInit_v2");
    if let Some(code) = control.init {
        return Err(code);
    }
    if !opens("nvidiactl") {
        return Err(nvml::nvmlReturn_enum_NVML_ERROR_DRIVER_NOT_LOADED);
    }
    let mut state = state();
    if state.profile.is_none() {
        // Lives as long as the process: one profile for each time that the library is loaded.
        let profile = own_file()
            .as_deref()
            .and_then(Profile::in_force)
            .ok_or(nvml::nvmlReturn_enum_NVML_ERROR_DRIVER_NOT_LOADED)?;
        state.profile = Some(Box::leak(Box::new(profile)));
    }
    if state.users == 0 {
        let gpus = state.profile.iter().flat_map(|profile| &profile.gpus);
        let names = gpus.filter(|gpu| !is_away(&control, gpu)).map(|gpu| format!("nvidia{}", gpu.minor));
        state.held = names.filter_map(|name| hold(&name)).collect();
    }
    state.users += 1;
    Ok(())
}

pub(crate) fn shutdown() -> Result<(), Code> {
    let mut state = state();
    if state.users == 0 {
        return Err(nvml::nvmlReturn_enum_NVML_ERROR_UNINITIALIZED);
    }
    state.users -= 1;
    if state.users == 0 {
        state.held.clear();
    }
    Ok(())
}

/// Enters a call: after the time that it is to take, with what is there now.
pub(crate) fn view(function: &str) -> Result<View, Code> {
    let control = enter(function);
    let state = state();
    match state.profile {
        Some(profile) if state.users > 0 => Ok(View { profile, control }),
        _ => Err(nvml::nvmlReturn_enum_NVML_ERROR_UNINITIALIZED),
    }
}

impl View {
    /// The GPUs that this process sees, in the order of their index, with their place in the profile.
    pub(crate) fn gpus(&self) -> impl Iterator<Item = (usize, &'static GpuProfile)> {
        self.profile.gpus.iter().enumerate().filter(|(_, gpu)| self.sees(gpu))
    }

    /// Whether it sees this one.
    pub(crate) fn sees(&self, gpu: &GpuProfile) -> bool {
        !self.is_removed(gpu) && opens(&format!("nvidia{}", gpu.minor))
    }

    pub(crate) fn is_removed(&self, gpu: &GpuProfile) -> bool {
        is_away(&self.control, gpu)
    }

    /// The processes on a GPU that still live.
    pub(crate) fn processes(&self, gpu: &GpuProfile) -> impl Iterator<Item = &Process> {
        self.control.processes.get(&gpu.uuid).into_iter().flatten().filter(|process| lives(process.pid))
    }

    /// `nvmlDeviceGpuRecoveryAction_t`.
    pub(crate) fn recovery(&self, gpu: &GpuProfile) -> u32 {
        self.control.recovery.get(&gpu.uuid).copied().unwrap_or_default()
    }

    /// What it measures.
    pub(crate) fn readings(&self, gpu: &GpuProfile) -> Cow<'_, Readings> {
        self.control.readings.get(&gpu.uuid).map_or_else(|| Cow::Owned(Readings::default()), Cow::Borrowed)
    }

    /// Takes the time that a call about this GPU is to take.
    pub(crate) fn hang(&self, gpu: &GpuProfile, function: &str) {
        if let Some(milliseconds) = self.control.hangs.get(&gpu.uuid).and_then(|hangs| hangs.get(function)) {
            std::thread::sleep(Duration::from_millis(*milliseconds));
        }
    }

    /// What has happened so far.
    pub(crate) fn events(&self) -> &[Happening] {
        &self.control.events
    }

    /// What `function` is to answer about a GPU instead of the truth.
    pub(crate) fn error(&self, gpu: &GpuProfile, function: &str) -> Option<Code> {
        let of = |errors: &std::collections::BTreeMap<String, u32>| {
            errors.get(function).or_else(|| errors.get("*")).copied()
        };
        self.control.errors.get(&gpu.uuid).and_then(of).or_else(|| of(&gpu.errors))
    }
}

fn is_away(control: &Control, gpu: &GpuProfile) -> bool {
    static AWAY: Cached<Away> = Cached::new();
    let elsewhere = || {
        let control = control_file();
        control.is_some_and(|control| AWAY.get(&Away::file(control), Away::read).0.contains(&gpu.uuid))
    };
    control.removed.contains(&gpu.uuid) || elsewhere()
}

/// Where trouble is ordered, if anywhere.
pub(crate) fn control_file() -> Option<&'static Path> {
    static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
    FILE.get_or_init(|| setting("FAKE_NVML_CONTROL").map(PathBuf::from)).as_deref()
}

/// They are the same for the life of the process.
fn setting(name: &str) -> Option<OsString> {
    settings::value(name, &own_file()?)
}

fn enter(function: &str) -> Arc<Control> {
    static CONTROL: Cached<Control> = Cached::new();
    let control = control_file().map(|file| CONTROL.get(file, Control::read)).unwrap_or_default();
    if let Some(milliseconds) = control.hang.get(function) {
        std::thread::sleep(Duration::from_millis(*milliseconds));
    }
    control
}

/// A process that has ended holds no memory, even while its parent hasn't asked for its exit code.
fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name before the state can hold anything, even brackets.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

fn node(name: &str) -> PathBuf {
    static DEV: OnceLock<PathBuf> = OnceLock::new();
    DEV.get_or_init(|| setting("FAKE_NVML_DEV").map_or_else(|| PathBuf::from("/dev"), PathBuf::from)).join(name)
}

/// A descriptor of a node: of one behind which there is no driver, one by which it is only named.
fn hold(name: &str) -> Option<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    options.open(node(name)).or_else(|_| options.custom_flags(libc::O_PATH).open(node(name))).ok()
}

/// Whether a device node can be opened, as far as the container's device rules go: behind the node there is no driver.
fn opens(name: &str) -> bool {
    let path = node(name);
    let Ok(meta) = path.metadata() else { return false };
    if !meta.file_type().is_char_device() {
        // A device directory that was made without root has no real nodes.
        return path.parent() != Some(Path::new("/dev"));
    }
    match OpenOptions::new().read(true).write(true).open(&path) {
        Ok(_) => true,
        Err(error) => matches!(error.raw_os_error(), Some(libc::ENXIO | libc::ENODEV)),
    }
}

/// The file that this code was loaded from.
fn own_file() -> Option<PathBuf> {
    let mut info = libc::Dl_info {
        dli_fname: std::ptr::null(),
        dli_fbase: std::ptr::null_mut(),
        dli_sname: std::ptr::null(),
        dli_saddr: std::ptr::null_mut(),
    };
    // SAFETY: the address is one of this library's own functions, and the out-parameter lives through the call.
    let found = unsafe { libc::dladdr(own_file as *const libc::c_void, &raw mut info) };
    if found == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: dladdr gave a string that lives as long as the library is loaded.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    Some(PathBuf::from(name.to_str().ok()?))
}
