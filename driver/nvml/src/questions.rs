//! The handle of a further customer: questions about single GPUs, one at a time.
use std::{
    path::PathBuf,
    sync::{Arc, Weak, mpsc},
    time::Duration,
};

use aliquot_model::{GpuUuid, Memory};
use tokio::sync::{Mutex, oneshot};

use crate::{
    Absence, Error, GpuProcesses, MemoryLimits, Patience, Sampled,
    away::Away,
    desk::Desk,
    progress::Progress,
    samplers::Samplers,
    worker::{Question, put},
};

/// How long who wants no session waits for another who wanted none before, so as to have persistence modes switched off.
const SOON: Duration = Duration::from_secs(2);

/// Asks the library that [`Nvml`](crate::Nvml) has open, through its thread and its session.
///
/// All clones together have one question under way. What is asked while an overdue one hangs waits here, where it can be
/// given up, and not in the thread's queue.
#[derive(Debug, Clone)]
pub struct Questions {
    inbox: Weak<mpsc::Sender<Question>>,
    progress: Arc<Progress>,
    /// Ends when the last question has.
    last: Arc<Mutex<Option<oneshot::Receiver<()>>>>,
    samplers: Samplers,
    away: Arc<Away>,
}

impl Questions {
    pub(crate) fn new(
        inbox: &Arc<mpsc::Sender<Question>>,
        progress: Arc<Progress>,
        away: Arc<Away>,
        path: PathBuf,
    ) -> Self {
        Self { inbox: Arc::downgrade(inbox), progress, last: Arc::default(), samplers: Samplers::new(path), away }
    }

    /// Whether the library's owner has let go of it, so that there will be no more answers.
    pub fn are_over(&self) -> bool {
        self.inbox.strong_count() == 0
    }

    /// The processes on these GPUs, in the same order (`nvmlDeviceGetComputeRunningProcesses_v3` and
    /// `nvmlDeviceGetGraphicsRunningProcesses_v3`).
    pub async fn processes(&self, gpus: Vec<GpuUuid>, deadline: Duration) -> Result<Vec<GpuProcesses>, Error> {
        self.ask(deadline, move |desk| desk.processes(gpus)).await
    }

    /// Limits the memory that a cgroup's processes can have of a GPU (`nvmlDeviceSetMemoryLimits_v1`).
    ///
    /// Up to `soft` they are sure of, over `hard` they get none. Zero and no hard limit take earlier limits away.
    pub async fn set_limits(
        &self,
        gpu: GpuUuid,
        cgroup: PathBuf,
        soft: Memory,
        hard: Option<Memory>,
        deadline: Duration,
    ) -> Result<(), Error> {
        self.ask(deadline, move |desk| desk.set_limits(gpu, cgroup, soft, hard)).await
    }

    /// The limits that a cgroup has on a GPU, if any were set (`nvmlDeviceGetMemoryLimits_v1`).
    pub async fn limits(
        &self,
        gpu: GpuUuid,
        cgroup: PathBuf,
        deadline: Duration,
    ) -> Result<Option<MemoryLimits>, Error> {
        self.ask(deadline, move |desk| desk.limits(gpu, cgroup)).await
    }

    /// What these GPUs measure, in the same order. No other question waits for it, nor it for another; a GPU that hangs
    /// costs its own sample only. While a sample is taken, a [`Session::Renew`](crate::Session::Renew) notices nothing new.
    pub async fn samples(&self, gpus: Vec<GpuUuid>, patience: Patience) -> Result<Vec<Sampled>, Error> {
        if self.are_over() {
            return Err(Error::Ended);
        }
        self.samplers.sample(gpus, patience).await
    }

    /// Ends every session that this process has, after the persistence mode of these GPUs, and begins none until what this
    /// gives is dropped, or `longest` has passed.
    ///
    /// The kernel driver counts each session as a user of every GPU. What is asked meanwhile waits, until its own deadline.
    /// Where somebody else has had all sessions ended and isn't done soon, this joins in, and leaves persistence modes as they
    /// are.
    pub async fn let_go(&self, gpus: Vec<GpuUuid>, deadline: Duration, longest: Duration) -> Result<Absence, Error> {
        let leave = self.leave(gpus, longest);
        tokio::pin!(leave);
        for wait in [SOON.min(deadline), deadline.saturating_sub(SOON)] {
            if let Ok(absence) = tokio::time::timeout(wait, &mut leave).await {
                return absence;
            }
            if let Some(absence) = self.away.join(longest) {
                return Ok(absence);
            }
        }
        Err(self.overdue(deadline))
    }

    /// Switches the persistence mode of GPUs on (`nvmlDeviceSetPersistenceMode`), also of those that NVIDIA's driver has
    /// only just got.
    pub async fn wake(&self, gpus: Vec<GpuUuid>, deadline: Duration) -> Result<(), Error> {
        self.ask(deadline, move |desk| desk.wake(gpus)).await
    }

    async fn leave(&self, gpus: Vec<GpuUuid>, longest: Duration) -> Result<Absence, Error> {
        let quiet = self.samplers.quiet().await;
        let away = Arc::clone(&self.away);
        let (tell, told) = oneshot::channel();
        let leave = move |desk: &mut Desk| {
            let _quiet = quiet;
            let rested = desk.leave(gpus);
            match tell.send(away.begin(longest, rested)) {
                Ok(()) => {
                    away.keep();
                    Ok(())
                }
                // Whoever asked has gone meanwhile.
                Err(absence) if absence.rested().is_empty() => Ok(()),
                Err(absence) => desk.wake(absence.rested().to_vec()),
            }
        };
        tokio::select! {
            biased;
            absence = told => absence.map_err(|_| Error::Ended),
            ended = self.answer(leave) => ended.and(Err(Error::Ended)),
        }
    }

    async fn ask<T: Send + 'static>(
        &self,
        deadline: Duration,
        question: impl FnOnce(&mut Desk) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        tokio::time::timeout(deadline, self.answer(question)).await.unwrap_or_else(|_| Err(self.overdue(deadline)))
    }

    fn overdue(&self, deadline: Duration) -> Error {
        if self.away.is_kept() {
            return Error::Away { deadline };
        }
        Error::Overdue { deadline, gpu: self.progress.gpu(), so_far: None }
    }

    async fn answer<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Desk) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let mut last = self.last.lock().await;
        if let Some(end) = &mut *last {
            // It ends by being dropped with its question.
            let _ = end.await;
        }
        let (under_way, end) = oneshot::channel();
        *last = Some(end);
        let question = move |desk: &mut Desk| {
            let _under_way = under_way;
            question(desk)
        };
        let answer = put(&*self.inbox.upgrade().ok_or(Error::Ended)?, question)?;
        answer.await.map_err(|_| Error::Ended)?
    }
}
