//! The thread that owns the library, and the handle by which the rest of the driver asks it.
use std::{
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::Duration,
};

use nvml_wrapper::{Nvml as Library, error::NvmlError};
use tokio::sync::oneshot;

use crate::reading::{self, Progress, Reading};

/// Why there is no reading.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The library can't be loaded, or the kernel driver doesn't answer it.
    #[error("NVML can't be started from {}: {source}; {}", path.display(), advice(source))]
    Start {
        /// The library.
        path: PathBuf,
        /// What it said.
        source: NvmlError,
    },
    /// The file is a library, but not NVML.
    #[error("{} is no NVML: it has no nvmlShutdown", path.display())]
    Foreign {
        /// The library.
        path: PathBuf,
    },
    /// A question about the whole node failed.
    #[error("NVML failed to list the GPUs: {source}; {}", advice(source))]
    List {
        /// What it said.
        #[from]
        source: NvmlError,
    },
    /// No answer in time; the call is still under way.
    #[error(
        "NVML gave no answer within {deadline:?}{}: it or the kernel driver hangs (see the kernel's log for NVRM and Xid)",
        gpu.map(|index| format!(" for GPU {index}")).unwrap_or_default()
    )]
    Overdue {
        /// How long it had.
        deadline: Duration,
        /// The index of the GPU that it was asked about.
        gpu: Option<u32>,
        /// What was read before that.
        so_far: Option<Box<Reading>>,
    },
    /// The thread can't be made, or died.
    #[error("the thread that calls NVML ended")]
    Ended,
}

/// What an operator can do about an error of NVML.
fn advice(error: &NvmlError) -> &'static str {
    match error {
        NvmlError::DriverNotLoaded => "load the kernel module (modprobe nvidia) or wait for the driver to be installed",
        NvmlError::LibRmVersionMismatch => {
            "the library and the kernel module are of different versions: reboot, or reload the module, after a driver update"
        }
        NvmlError::NoPermission => "run as root, with the GPUs' device nodes accessible",
        NvmlError::LibloadingError(_) => "the file is damaged or of another architecture",
        _ => "see the kernel's log for NVRM messages",
    }
}

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

struct Question {
    session: Session,
    answer: oneshot::Sender<Result<Reading, Error>>,
}

/// A library that is opened by its own thread, with the first reading.
#[derive(Debug)]
pub struct Nvml {
    path: PathBuf,
    questions: mpsc::Sender<Question>,
    progress: Arc<Progress>,
    /// The answer to a question whose deadline passed: until it comes, asking again would only queue.
    overdue: Option<oneshot::Receiver<Result<Reading, Error>>>,
}

impl Nvml {
    /// For the library at `path`; nothing is opened yet.
    pub fn new(path: PathBuf) -> Result<Self, Error> {
        let (questions, inbox) = mpsc::channel();
        let library = path.clone();
        let progress = Arc::new(Progress::default());
        let told = Arc::clone(&progress);
        std::thread::Builder::new()
            .name("nvml".to_owned())
            .spawn(move || serve(&library, &inbox, &told))
            .map_err(|_| Error::Ended)?;
        Ok(Self { path, questions, progress, overdue: None })
    }

    /// The library's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads all GPUs, or gives up waiting after `deadline`.
    pub async fn read(&mut self, session: Session, deadline: Duration) -> Result<Reading, Error> {
        let mut answer = if let Some(overdue) = self.overdue.take() {
            overdue
        } else {
            let (answer, receiver) = oneshot::channel();
            self.questions.send(Question { session, answer }).map_err(|_| Error::Ended)?;
            receiver
        };
        match tokio::time::timeout(deadline, &mut answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Error::Ended),
            Err(_) => {
                self.overdue = Some(answer);
                let (so_far, gpu) = self.progress.so_far().unzip();
                Err(Error::Overdue { deadline, gpu, so_far: so_far.map(Box::new) })
            }
        }
    }
}

/// Answers until the handle is dropped.
fn serve(path: &Path, inbox: &mpsc::Receiver<Question>, progress: &Progress) {
    let mut open: Option<Library> = None;
    for question in inbox {
        if question.session == Session::Renew {
            open = None;
        }
        let result = read(&mut open, path, progress);
        if result.is_err() {
            open = None;
        }
        // Nobody may wait any more.
        let _ = question.answer.send(result);
    }
}

fn read(open: &mut Option<Library>, path: &Path, progress: &Progress) -> Result<Reading, Error> {
    let library = match open {
        Some(library) => library,
        None => open.insert(start(path)?),
    };
    let asked = reading::read(library, progress);
    let reading = progress.end();
    asked?;
    reading.ok_or(Error::Ended)
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
