//! What the thread has before it: the open library, and the answers that it can give from it.
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use aliquot_model::{GpuUuid, Memory};
use nvml_wrapper::{Device, Nvml as Library, error::NvmlError};

use crate::{Error, GpuProcesses, MemoryLimits, Reading, Session, limits, processes, progress::Progress, reading};

/// The thread's own; the library is open from the first question on.
pub(crate) struct Desk {
    path: PathBuf,
    open: Option<Library>,
    progress: Arc<Progress>,
    /// From the last reading, so that a question that hangs can be laid at its GPU's door without asking for the index.
    indices: BTreeMap<GpuUuid, u32>,
}

impl Desk {
    pub(crate) fn new(path: PathBuf, progress: Arc<Progress>) -> Self {
        Self { path, open: None, progress, indices: BTreeMap::new() }
    }

    /// All GPUs. After a failure, the next question begins another session.
    pub(crate) fn read(&mut self, session: Session) -> Result<Reading, Error> {
        if session == Session::Renew {
            self.open = None;
        }
        let result = self.try_read();
        match &result {
            Ok(reading) => {
                self.indices = reading.gpus.iter().flatten().map(|gpu| (gpu.uuid.clone(), gpu.index)).collect();
            }
            Err(_) => self.open = None,
        }
        result
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

    /// Asks one GPU something, and lets those who wait know which.
    fn about<T>(
        &self,
        gpu: &GpuUuid,
        question: impl FnOnce(&Device<'_>, &Path) -> Result<T, NvmlError>,
    ) -> Result<T, NvmlError> {
        let library = self.open.as_ref().ok_or(NvmlError::Uninitialized)?;
        self.progress.ask(self.indices.get(gpu).copied());
        let answer = library.device_by_uuid(gpu.as_str()).and_then(|device| question(&device, &self.path));
        self.progress.ask(None);
        answer
    }
}

fn opened<'a>(open: &'a mut Option<Library>, path: &Path) -> Result<&'a Library, Error> {
    match open {
        Some(library) => Ok(library),
        None => Ok(open.insert(start(path)?)),
    }
}

fn start(path: &Path) -> Result<Library, Error> {
    let library = Library::builder().lib_path(path.as_os_str()).init();
    let library = library.map_err(|source| Error::Start { path: path.to_owned(), source })?;
    if library.lib().nvmlShutdown.is_err() {
        // Dropping it would call what isn't there.
        std::mem::forget(library);
        return Err(Error::Foreign { path: path.to_owned() });
    }
    Ok(library)
}
