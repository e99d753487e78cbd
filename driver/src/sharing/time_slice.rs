//! Sets how long a process computes on a GPU before the next one's turn.
//!
//! No public NVML call does that, so the driver's own `nvidia-smi compute-policy --set-timeslice` is run, from the
//! driver's root and with its library.
use std::{path::Path, process::Stdio, time::Duration};

use aliquot_model::GpuUuid;
use aliquot_params::TimeSlice;
use tokio::process::Command;

use crate::discovery::installation::Installation;

/// `nvidia-smi` answers within a second, or hangs in the kernel driver.
const DEADLINE: Duration = Duration::from_secs(10);
/// As much of what it prints as fits into an event.
const LONGEST: usize = 200;

/// Why a GPU's time slice isn't what it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The driver has no such program.
    #[error("the driver's root has no {0}")]
    Missing(&'static str),
    /// It can't be run.
    #[error("{program} can't be run: {source}")]
    Run {
        /// The program.
        program: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It gave no answer.
    #[error("nvidia-smi gave no answer within {DEADLINE:?}")]
    Overdue,
    /// It refused.
    #[error("nvidia-smi says: {0}")]
    Refused(String),
}

/// Sets a GPU's time slice.
pub async fn set(installation: &Installation, gpu: &GpuUuid, slice: TimeSlice) -> Result<(), Error> {
    let program = installation.program("nvidia-smi").ok_or(Error::Missing("nvidia-smi"))?;
    let library = installation.library("libnvidia-ml.so.1").ok_or(Error::Missing("libnvidia-ml.so.1"))?;
    let run = command(program, library, gpu, slice).output();
    let output = match tokio::time::timeout(DEADLINE, run).await {
        Ok(Ok(output)) => output,
        Ok(Err(source)) => return Err(Error::Run { program: program.display().to_string(), source }),
        Err(_) => return Err(Error::Overdue),
    };
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).split_whitespace().collect::<Vec<_>>().join(" ");
    let said = said.get(..said.floor_char_boundary(LONGEST)).unwrap_or_default().to_owned();
    Err(Error::Refused(if said.is_empty() { output.status.to_string() } else { said }))
}

/// Nothing of this process's environment is handed on. The library is the one of the driver's root, which the loader
/// of a container image wouldn't find.
fn command(program: &Path, library: &Path, gpu: &GpuUuid, slice: TimeSlice) -> Command {
    let mut command = Command::new(program);
    command
        .args(["compute-policy", "-i", gpu.as_str(), "--set-timeslice", &slice.number().to_string()])
        .env_clear()
        .env("LD_PRELOAD", library)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;
    use crate::discovery::installation::Library;

    fn installation(dir: &Path, script: &str) -> Installation {
        let program = dir.join("nvidia-smi");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let library = Library {
            file: dir.join("libnvidia-ml.so.570.1"),
            below: None,
            names: ["libnvidia-ml.so.1".into()].into(),
        };
        Installation { libraries: vec![library], binaries: vec![program], ..Installation::default() }
    }

    async fn told(script: &str) -> Result<(), Error> {
        let dir = tempfile::tempdir().unwrap();
        // The script's own shell complains of a library that isn't there, on standard error only.
        let installation = installation(dir.path(), script);
        set(&installation, &"GPU-1".parse().unwrap(), TimeSlice::Short).await
    }

    #[tokio::test]
    async fn the_drivers_program_is_asked_with_its_library_and_no_other_environment() {
        let check = "[ \"$*\" = 'compute-policy -i GPU-1 --set-timeslice 1' ] || exit 1\n\
                     [ -z \"$HOME$USER$KUBECONFIG\" ] && [ \"${LD_PRELOAD##*/}\" = libnvidia-ml.so.570.1 ]";
        told(check).await.unwrap();
    }

    #[tokio::test]
    async fn a_refusal_is_told_in_its_own_words() {
        let error = told("echo 'Timeslice is not supported for GPU 00000000:41:00.0.'; exit 3").await.unwrap_err();
        assert!(error.to_string().contains("says: Timeslice is not supported"), "{error}");
        let error = told("exit 3").await.unwrap_err();
        assert!(error.to_string().contains('3') || error.to_string().contains("preload"), "{error}");
    }

    #[tokio::test]
    async fn a_driver_without_the_program_says_so() {
        let error = set(&Installation::default(), &"GPU-1".parse().unwrap(), TimeSlice::Short).await.unwrap_err();
        assert_eq!(error.to_string(), "the driver's root has no nvidia-smi");
    }
}
