//! Passthrough against a real kernel: a machine with GPUs on its PCI bus, and the driver in it.
//!
//! The kernel is Debian's, its IOMMU and its PCI bus are qemu's, and the GPUs are `card`s that answer with an H100's ids.
//! What the kernel does with them is what it does with real ones: groups, drivers, nodes below /dev/vfio. In the machine the
//! driver's own binary runs between the stand-ins for the API server and the kubelet.
mod card;
mod guest;
mod initramfs;
mod machine;
mod places;

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::Stdio,
    sync::mpsc,
    time::{Duration, Instant},
};

pub use guest::run as inside;
pub use machine::{Error as MachineError, Release};

use crate::{debian::Unavailable, node::Artifacts};
use machine::{Machine, Start};

/// How it is tried.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Whose kernel.
    pub release: Release,
    /// What runs the machine's instructions: `tcg` or `kvm`.
    pub accelerator: String,
    /// How long all of it may take.
    pub patience: Duration,
}

/// Why it couldn't be found out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The packages it is made from.
    #[error(transparent)]
    Packages(#[from] Unavailable),
    /// A file or program of this machine.
    #[error("{}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It hung.
    #[error("the machine didn't come to its end within {} s; its console's last words:\n{console}", after.as_secs())]
    Late {
        /// How long it had.
        after: Duration,
        /// The end of what the kernel said.
        console: String,
    },
}

/// Starts the machine and hands over each line that is said in it; whether all came out as it must.
pub fn run(target_dir: &Path, plan: &Plan, mut tell: impl FnMut(&str)) -> Result<bool, Error> {
    let machine = Machine::fetch(target_dir, plan.release)?;
    let nvidia = machine.nvidia(target_dir)?;
    let dir = tempfile::Builder::new().prefix("aliquot-vm").tempdir().map_err(io(Path::new("/tmp")))?;
    let artifacts = Artifacts::find().map_err(io(target_dir))?;
    let initramfs = initramfs::make(&machine, &artifacts, &nvidia, dir.path())?;
    let console = dir.path().join("console");
    let start = Start { accelerator: &plan.accelerator, initramfs: &initramfs, console: &console };
    let mut qemu = machine.start(dir.path(), &start)?;
    let began = Instant::now();
    let said = dir.path().join("qemu");
    let errors = File::create(&said).map_err(io(&said))?;
    qemu.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
    let mut child = qemu.spawn().map_err(io(Path::new("qemu")))?;
    let (sender, lines) = mpsc::channel();
    if let Some(output) = child.stdout.take() {
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
    }
    let mut last = String::new();
    loop {
        match lines.recv_timeout((began + plan.patience).saturating_duration_since(Instant::now())) {
            Ok(line) => {
                tell(line.trim_end());
                line.trim_end().clone_into(&mut last);
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(Error::Late { after: plan.patience, console: end_of(&console) });
            }
        }
    }
    child.wait().map_err(io(Path::new("qemu")))?;
    if !last.starts_with("steps ") {
        tell(&end_of(&said));
        tell(&end_of(&console));
    }
    Ok(is_good(&last))
}

/// Whether the last line says that there were steps and none failed.
fn is_good(sum: &str) -> bool {
    let words: Vec<&str> = sum.split(' ').collect();
    matches!(words[..], ["steps", steps, "failed", "0", ..] if steps != "0")
}

fn end_of(file: &Path) -> String {
    let text = std::fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    |source| Error::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_falls_silent_proves_nothing() {
        for sum in ["", "steps 0 failed 0", "steps 3 failed 1", "steps 3 failed", "kernel panic"] {
            assert!(!is_good(sum), "{sum}");
        }
        assert!(is_good("steps 9 failed 0 bound 12.5 ms"));
    }
}
