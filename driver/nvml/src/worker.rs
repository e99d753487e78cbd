//! The thread that owns the library, and the handle by which the rest of the driver asks it for readings.
use std::{
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::Duration,
};

use tokio::sync::{mpsc as events, oneshot};

use crate::{Error, GpuEvent, Questions, Reading, away::Away, desk::Desk, progress::Progress};

/// Whether a reading may use NVML as an earlier reading left it.
///
/// Initialising anew wakes every GPU that has no persistence mode, which takes a second for each; but only that notices
/// GPUs that were added and a library that was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Session {
    /// Go on with the one that is there.
    Keep,
    /// Close it and begin another.
    Renew,
}

/// What the thread is to do next.
pub(crate) type Question = Box<dyn FnOnce(&mut Desk) + Send>;

/// A library that is opened by its own thread, with the first question.
#[derive(Debug)]
pub struct Nvml {
    path: PathBuf,
    /// The thread ends with it; further customers only borrow it.
    inbox: Arc<mpsc::Sender<Question>>,
    progress: Arc<Progress>,
    away: Arc<Away>,
    questions: Questions,
    /// The answer to a question whose deadline passed: until it comes, asking again would only queue.
    overdue: Option<oneshot::Receiver<Result<Reading, Error>>>,
}

impl Nvml {
    /// For the library at `path`; nothing is opened yet.
    pub fn new(path: PathBuf) -> Result<Self, Error> {
        Self::open(path, None)
    }

    /// The same; what the GPUs report by themselves is told from the first reading on.
    pub fn watching(path: PathBuf, told: events::UnboundedSender<GpuEvent>) -> Result<Self, Error> {
        Self::open(path, Some(told))
    }

    fn open(path: PathBuf, told: Option<events::UnboundedSender<GpuEvent>>) -> Result<Self, Error> {
        let (inbox, questions) = mpsc::channel();
        let inbox = Arc::new(inbox);
        let progress = Arc::new(Progress::default());
        let desk = Desk::new(path.clone(), Arc::clone(&progress), told);
        std::thread::Builder::new()
            .name("nvml".to_owned())
            .spawn(move || serve(desk, questions))
            .map_err(|_| Error::Ended)?;
        let away = Arc::<Away>::default();
        let questions = Questions::new(&inbox, Arc::clone(&progress), Arc::clone(&away), path.clone());
        Ok(Self { path, inbox, progress, away, questions, overdue: None })
    }

    /// The library's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A handle for a further customer of the same library and session. It doesn't keep the library open: when this one
    /// is dropped, its questions end in [`Error::Ended`].
    pub fn questions(&self) -> Questions {
        self.questions.clone()
    }

    /// Reads all GPUs, or gives up waiting after `deadline`.
    pub async fn read(&mut self, session: Session, deadline: Duration) -> Result<Reading, Error> {
        let mut answer = match self.overdue.take() {
            Some(overdue) => overdue,
            None => put(&self.inbox, move |desk| desk.read(session))?,
        };
        match tokio::time::timeout(deadline, &mut answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Error::Ended),
            Err(_) => {
                self.overdue = Some(answer);
                if self.away.is_kept() {
                    return Err(Error::Away { deadline });
                }
                let so_far = self.progress.so_far().map(Box::new);
                Err(Error::Overdue { deadline, gpu: self.progress.gpu(), so_far })
            }
        }
    }
}

/// Puts a question to the thread. One whose asker has gone when its turn comes is left.
pub(crate) fn put<T: Send + 'static>(
    inbox: &mpsc::Sender<Question>,
    question: impl FnOnce(&mut Desk) -> T + Send + 'static,
) -> Result<oneshot::Receiver<T>, Error> {
    let (answer, receiver) = oneshot::channel();
    let question = move |desk: &mut Desk| {
        if !answer.is_closed() {
            // Nobody may wait any more.
            let _ = answer.send(question(desk));
        }
    };
    inbox.send(Box::new(question)).map_err(|_| Error::Ended)?;
    Ok(receiver)
}

/// Answers until the handle is dropped.
fn serve(mut desk: Desk, questions: mpsc::Receiver<Question>) {
    for question in questions {
        question(&mut desk);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_is_no_library_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("libnvidia-ml.so.1");
        std::fs::write(&path, "no ELF").unwrap();
        let mut nvml = Nvml::new(path.clone()).unwrap();
        let error = nvml.read(Session::Keep, Duration::from_secs(10)).await.unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        assert!(error.to_string().contains("damaged"), "{error}");
    }

    #[tokio::test]
    async fn a_library_that_is_not_nvml_is_refused_without_a_crash() {
        let libc = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib/aarch64-linux-gnu/libc.so.6", "/lib64/libc.so.6"];
        let path = libc.iter().find(|path| Path::new(path).exists()).unwrap();
        let mut nvml = Nvml::new(path.into()).unwrap();
        assert!(matches!(nvml.read(Session::Keep, Duration::from_secs(10)).await, Err(Error::Start { .. })));
    }
}
