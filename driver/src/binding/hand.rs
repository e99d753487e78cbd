//! Has the kernel's files read and written, each by a process of its own that may take as long as it likes.
//!
//! While it lasts it holds the lock of its function, also when whoever began it has given up, or has ended himself. So
//! nobody starts anything else for that function meanwhile, and it is told since when the kernel has been at what.
use std::{
    fs::{File, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use aliquot_model::PciAddress;
use owned_dir::Dir;
use rustix::{
    io::Errno,
    time::{ClockId, clock_gettime},
};
use tokio::process::Command;

use super::{files::KernelFile, trouble::Trouble};

/// The directory of locks below the run root.
const LOCKS: &str = "binding";
/// As much as is told of what a process says.
const LONGEST: u64 = 4096;

/// Where things are, and how long they may take.
#[derive(Debug)]
pub(super) struct Hand {
    pub(super) sys: PathBuf,
    pub(super) proc: PathBuf,
    pub(super) run: PathBuf,
    /// The driver's own program.
    pub(super) program: PathBuf,
    pub(super) deadline: Duration,
}

impl Hand {
    /// Whether the kernel is still at something for a function.
    pub(super) fn is_free(&self, pci: PciAddress) -> Result<(), Trouble> {
        self.lock(pci).map(drop)
    }

    /// Whether the kernel has such a file.
    pub(super) fn has(&self, file: &KernelFile) -> bool {
        file.path(&self.sys, &self.proc).exists()
    }

    /// Writes to a file for a function.
    pub(super) async fn write(&self, pci: PciAddress, file: &KernelFile, value: &str) -> Result<(), Trouble> {
        self.attend(pci, file, Some(value)).await.map(drop)
    }

    /// What a file of a function says, without the end of its line.
    pub(super) async fn read(&self, pci: PciAddress, file: &KernelFile) -> Result<String, Trouble> {
        let text = self.attend(pci, file, None).await?;
        Ok(String::from_utf8_lossy(&text).trim().to_owned())
    }

    async fn attend(&self, pci: PciAddress, file: &KernelFile, value: Option<&str>) -> Result<Vec<u8>, Trouble> {
        let path = file.path(&self.sys, &self.proc);
        let what = match value {
            Some(value) => format!("{value:?} is written to {}", path.display()),
            None => format!("{} is read", path.display()),
        };
        let failed = |reason: &dyn std::fmt::Display| Trouble::Helper { pci, reason: format!("{what}: {reason}") };
        let lock = self.lock(pci)?;
        note(&lock, &what).map_err(|error| failed(&error))?;
        let mut command = Command::new(&self.program);
        command.arg("kernel-file").arg("--sys-root").arg(&self.sys).arg("--proc-root").arg(&self.proc);
        command.arg(&path).args(value);
        // It has the lock for as long as it lives, in place of an input.
        command.stdin(lock).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Not with whoever interrupts the driver at a terminal.
        command.process_group(0);
        let process = command.spawn().map_err(|error| failed(&error))?;
        // This process's copy of the lock.
        drop(command);
        let output = match tokio::time::timeout(self.deadline, process.wait_with_output()).await {
            Ok(output) => output.map_err(|error| failed(&error))?,
            Err(_) => return Err(Trouble::UnderWay { pci, what, seconds: self.deadline.as_secs() }),
        };
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        match said.trim().parse() {
            Ok(number) => Err(Trouble::Refused { pci, what, errno: Errno::from_raw_os_error(number) }),
            Err(_) if output.status.code().is_none() => {
                Err(Trouble::Ended { pci, what, status: output.status.to_string() })
            }
            Err(_) => Err(failed(&said.trim())),
        }
    }

    /// A function's lock, unless a process has it that was left behind.
    fn lock(&self, pci: PciAddress) -> Result<File, Trouble> {
        let failed = |reason: &dyn std::fmt::Display| Trouble::Helper { pci, reason: reason.to_string() };
        let dir = Dir::open(&self.run.join(LOCKS)).map_err(|error| failed(&error))?;
        let lock = dir.lock_file(&pci.to_string()).map_err(|error| failed(&error))?;
        match lock.try_lock() {
            Ok(()) => Ok(lock),
            Err(TryLockError::WouldBlock) => {
                let (seconds, what) = noted(lock);
                Err(Trouble::UnderWay { pci, what, seconds })
            }
            Err(TryLockError::Error(error)) => Err(failed(&error)),
        }
    }
}

/// The driver's own program, also after its file was replaced.
pub(super) fn own_program() -> &'static Path {
    Path::new("/proc/self/exe")
}

/// Since when there is what to do, for those who find it locked.
fn note(mut lock: &File, what: &str) -> io::Result<()> {
    lock.set_len(0)?;
    lock.rewind()?;
    lock.write_all(format!("{} {what}\n", now()).as_bytes())
}

/// For how long, and what.
fn noted(lock: File) -> (u64, String) {
    let mut text = String::new();
    let _ = lock.take(LONGEST).read_to_string(&mut text);
    let (since, what) = text.trim().split_once(' ').unwrap_or_default();
    (since.parse().map_or(0, |since| now().saturating_sub(since)), what.to_owned())
}

/// Seconds since the node was started, also for another process.
fn now() -> u64 {
    u64::try_from(clock_gettime(ClockId::Boottime).tv_sec).unwrap_or_default()
}
