//! What the thread has before it: the open library, and the answers that it can give from it.
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use aliquot_model::{GpuUuid, Memory};
use nvml_wrapper::{Device, Nvml as Library, error::NvmlError};
use tokio::sync::mpsc;

use crate::{
    Error, GpuEvent, GpuProcesses, MemoryLimits, Reading, Session, events::Watch, limits, processes,
    progress::Progress, reading,
};

/// The thread's own; the library is open from the first question on.
pub(crate) struct Desk {
    path: PathBuf,
    open: Option<Library>,
    progress: Arc<Progress>,
    /// From the last reading, so that a question that hangs can be laid at its GPU's door without asking for the index.
    indices: BTreeMap<GpuUuid, u32>,
    /// Who is told what GPUs report by themselves, if anybody, and the thread that tells.
    told: Option<mpsc::UnboundedSender<GpuEvent>>,
    watch: Option<Watch>,
}

impl Desk {
    pub(crate) fn new(path: PathBuf, progress: Arc<Progress>, told: Option<mpsc::UnboundedSender<GpuEvent>>) -> Self {
        Self { path, open: None, progress, indices: BTreeMap::new(), told, watch: None }
    }

    /// All GPUs. After a failure, the next question begins another session.
    pub(crate) fn read(&mut self, session: Session) -> Result<Reading, Error> {
        if session == Session::Renew {
            self.close();
        }
        let result = self.try_read();
        match &result {
            Ok(reading) => {
                self.indices = reading.gpus.iter().flatten().map(|gpu| (gpu.uuid.clone(), gpu.index)).collect();
                self.watch();
            }
            Err(_) => self.close(),
        }
        result
    }

    /// Ends every session, since the library begins anew only when none is left.
    fn close(&mut self) {
        self.watch = None;
        self.open = None;
    }

    /// Has the GPUs that answer watched.
    fn watch(&mut self) {
        let Some(told) = &self.told else { return };
        let gpus: Vec<GpuUuid> = self.indices.keys().cloned().collect();
        if self.watch.as_ref().is_none_or(|watch| watch.is_over(&gpus)) {
            self.watch = None;
            self.watch = (!gpus.is_empty()).then(|| Watch::begin(self.path.clone(), gpus, told.clone()));
        }
    }

    fn try_read(&mut self) -> Result<Reading, Error> {
        let library = opened(&mut self.open, &self.path)?;
        let asked = reading::read(library, &self.path, &self.progress);
        let reading = self.progress.end();
        asked?;
        reading.ok_or(Error::Ended)
    }

    /// The processes on these GPUs.
    pub(crate) fn processes(&mut self, gpus: Vec<GpuUuid>) -> Result<Vec<GpuProcesses>, Error> {
        opened(&mut self.open, &self.path)?;
        let each = gpus.into_iter().map(|gpu| {
            let processes = self.about(&gpu, |device, _| processes::read(device));
            let processes = processes.map_err(|error| format!("it failed to answer for its processes: {error}"));
            GpuProcesses { gpu, processes }
        });
        Ok(each.collect())
    }

    /// Sets a cgroup's limits on a GPU.
    pub(crate) fn set_limits(
        &mut self,
        gpu: GpuUuid,
        cgroup: PathBuf,
        soft: Memory,
        hard: Option<Memory>,
    ) -> Result<(), Error> {
        opened(&mut self.open, &self.path)?;
        let set = self.about(&gpu, |device, path| limits::set(path, device, &cgroup, soft, hard));
        set.map_err(|source| Error::Limits { gpu, cgroup, source })
    }

    /// A cgroup's limits on a GPU.
    pub(crate) fn limits(&mut self, gpu: GpuUuid, cgroup: PathBuf) -> Result<Option<MemoryLimits>, Error> {
        opened(&mut self.open, &self.path)?;
        let limits = self.about(&gpu, |device, path| limits::get(path, device, &cgroup));
        limits.map_err(|source| Error::Limits { gpu, cgroup, source })
    }

    /// Ends every session, after the persistence mode of these GPUs, which keeps them in use just as well; gives those that
    /// had it.
    pub(crate) fn leave(&mut self, gpus: Vec<GpuUuid>) -> Vec<GpuUuid> {
        let mut rested = Vec::new();
        if opened(&mut self.open, &self.path).is_ok() {
            rested.extend(gpus.into_iter().filter(|gpu| match self.about(gpu, |device, _| rest(device)) {
                Ok(rested) => rested,
                Err(error) => {
                    tracing::warn!(uuid = %gpu, %error, "the GPU's persistence mode can't be switched off");
                    false
                }
            }));
        }
        self.close();
        rested
    }

    /// Switches the persistence mode of GPUs on, in a session that knows those which came back.
    pub(crate) fn wake(&mut self, gpus: Vec<GpuUuid>) -> Result<(), Error> {
        self.close();
        opened(&mut self.open, &self.path)?;
        gpus.into_iter().try_for_each(|gpu| {
            let woken = self.about(&gpu, |device, _| device.set_persistent(true));
            woken.map_err(|source| Error::Persistence { gpu, source })
        })
    }

    /// Asks one GPU something, and lets those who wait know which.
    fn about<T>(
        &self,
        gpu: &GpuUuid,
        question: impl FnOnce(&mut Device<'_>, &Path) -> Result<T, NvmlError>,
    ) -> Result<T, NvmlError> {
        let library = self.open.as_ref().ok_or(NvmlError::Uninitialized)?;
        self.progress.ask(self.indices.get(gpu).copied());
        let answer = library.device_by_uuid(gpu.as_str()).and_then(|mut device| question(&mut device, &self.path));
        self.progress.ask(None);
        answer
    }
}

/// Whether its persistence mode was on; it is off then.
fn rest(device: &mut Device<'_>) -> Result<bool, NvmlError> {
    match device.is_in_persistent_mode() {
        Ok(true) => device.set_persistent(false).map(|()| true),
        // A GPU or a library that knows no such mode.
        Ok(false) | Err(NvmlError::NotSupported | NvmlError::FailedToLoadSymbol(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

fn opened<'a>(open: &'a mut Option<Library>, path: &Path) -> Result<&'a Library, Error> {
    match open {
        Some(library) => Ok(library),
        None => Ok(open.insert(start(path)?)),
    }
}

/// Begins a session.
pub(crate) fn start(path: &Path) -> Result<Library, Error> {
    let library = Library::builder().lib_path(path.as_os_str()).init();
    let library = library.map_err(|source| Error::Start { path: path.to_owned(), source })?;
    if library.lib().nvmlShutdown.is_err() {
        // Dropping it would call what isn't there.
        std::mem::forget(library);
        return Err(Error::Foreign { path: path.to_owned() });
    }
    Ok(library)
}
