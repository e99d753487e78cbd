//! Threads that sample GPUs while somebody asks: one for all that answer, and one left behind with each that hangs.
//!
//! They aren't the thread that answers everything else: what only shows figures must not keep the guard or a container
//! waiting, and the GPUs behind one that hangs are still to be seen. At rest there is no thread, no session and no call.
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    time::Duration,
};

use aliquot_model::GpuUuid;
use nvml_wrapper::Nvml as Library;
use tokio::{
    sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, oneshot},
    time::Instant,
};

use crate::{
    Error, desk,
    samples::{self, NoSample, Sample, Sampled},
};

/// How long is waited for samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For one GPU, which is left behind after it.
    pub each: Duration,
    /// For all together.
    pub all: Duration,
}

/// For one library; clones share what is known of GPUs that hang.
#[derive(Debug, Clone)]
pub(crate) struct Samplers {
    path: Arc<PathBuf>,
    /// Those that a thread is asking right now, or is still waiting for.
    asked: Arc<Mutex<BTreeSet<GpuUuid>>>,
    /// Read by every thread, and written by who wants none.
    open: Arc<RwLock<()>>,
}

/// Of whoever may have threads.
type Permit = Arc<OwnedRwLockReadGuard<()>>;
type Answer = Result<Sample, NoSample>;
type Ask = (GpuUuid, oneshot::Sender<Answer>);

impl Samplers {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path: Arc::new(path), asked: Arc::default(), open: Arc::default() }
    }

    /// Once every thread has ended, and with it its session; none begins until what this gives is dropped.
    pub(crate) async fn quiet(&self) -> OwnedRwLockWriteGuard<()> {
        Arc::clone(&self.open).write_owned().await
    }

    /// Asks each of these GPUs, one after the other.
    ///
    /// One whose thread still waits for an earlier answer isn't asked again, so that there are never more threads than
    /// GPUs and one.
    pub(crate) async fn sample(&self, gpus: Vec<GpuUuid>, patience: Patience) -> Result<Vec<Sampled>, Error> {
        let end = Instant::now() + patience.all;
        let permit = tokio::time::timeout_at(end, Arc::clone(&self.open).read_owned()).await;
        let permit = Arc::new(permit.map_err(|_| Error::Away { deadline: patience.all })?);
        let mut thread = None;
        let mut all = Vec::with_capacity(gpus.len());
        for gpu in gpus {
            let by = end.min(Instant::now() + patience.each);
            let sample = if Instant::now() < end && self.lock().insert(gpu.clone()) {
                let asked = thread.take().or_else(|| self.begin(&permit));
                let (sample, free) = self.ask(asked, gpu.clone(), by).await;
                thread = free;
                sample
            } else {
                Err(NoSample::Hangs)
            };
            all.push(Sampled { gpu, sample });
        }
        Ok(all)
    }

    /// The answer, and the thread if it is there for another question.
    async fn ask(
        &self,
        thread: Option<mpsc::Sender<Ask>>,
        gpu: GpuUuid,
        by: Instant,
    ) -> (Answer, Option<mpsc::Sender<Ask>>) {
        let (tell, told) = oneshot::channel();
        let Some(thread) = thread.filter(|thread| thread.send((gpu.clone(), tell)).is_ok()) else {
            self.lock().remove(&gpu);
            return (Err(NoSample::Failed("the thread that samples GPUs can't be made, or died".to_owned())), None);
        };
        match tokio::time::timeout_at(by, told).await {
            Ok(Ok(answer)) => (answer, Some(thread)),
            Ok(Err(_)) => (Err(NoSample::Failed("the thread that samples GPUs died".to_owned())), None),
            Err(_) => (Err(NoSample::Hangs), None),
        }
    }

    /// A thread that ends once nobody can ask it any more.
    fn begin(&self, permit: &Permit) -> Option<mpsc::Sender<Ask>> {
        let (inbox, questions) = mpsc::channel();
        let (this, permit) = (self.clone(), Arc::clone(permit));
        let thread = std::thread::Builder::new().name("nvml-samples".to_owned());
        let serve = move || {
            this.serve(&questions);
            drop(permit);
        };
        thread.spawn(serve).ok().map(|_| inbox)
    }

    fn serve(&self, questions: &mpsc::Receiver<Ask>) {
        let mut session = None;
        for (gpu, tell) in questions {
            let asked = Asked { gpus: &self.asked, gpu };
            let answer = open(&mut session, &self.path).and_then(|library| {
                let device = library.device_by_uuid(asked.gpu.as_str());
                device
                    .and_then(|device| samples::take(library, &device))
                    .map_err(|error| NoSample::Failed(error.to_string()))
            });
            // It may be asked again before whoever asked this time goes on.
            drop(asked);
            let _ = tell.send(answer);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<GpuUuid>> {
        lock(&self.asked)
    }
}

/// A session of its own beside that of the thread that has the library open, which makes it cheap.
fn open<'a>(session: &'a mut Option<Library>, path: &Path) -> Result<&'a Library, NoSample> {
    match session {
        Some(library) => Ok(library),
        None => Ok(session.insert(desk::start(path).map_err(|error| NoSample::Failed(error.to_string()))?)),
    }
}

/// A GPU that is being asked; it no longer is when this goes, even by a panic.
struct Asked<'a> {
    gpus: &'a Mutex<BTreeSet<GpuUuid>>,
    gpu: GpuUuid,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        lock(self.gpus).remove(&self.gpu);
    }
}

fn lock(gpus: &Mutex<BTreeSet<GpuUuid>>) -> MutexGuard<'_, BTreeSet<GpuUuid>> {
    gpus.lock().unwrap_or_else(PoisonError::into_inner)
}
