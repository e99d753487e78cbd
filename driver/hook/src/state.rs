//! The OCI state that a runtime writes to a hook's standard input: of it, the container's first process and its bundle.
use std::{
    fs::File,
    io::{self, Read},
    num::NonZeroI32,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{bundle::Config, subject::Subject};

/// Annotations are the bulk of a state, and Kubernetes holds those of a pod to a quarter of this.
const LARGEST: u64 = 1 << 20;

/// Why a state is none.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Standard input broke off.
    #[error("the container's state can't be read from standard input: {0}")]
    Read(#[from] io::Error),
    /// More than a runtime writes.
    #[error("the container's state on standard input is larger than {LARGEST} bytes")]
    Large,
    /// Something else.
    #[error("the container's state on standard input is no JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A field that is missing, or isn't what it must be.
    #[error("the container's state on standard input has no {0}")]
    Lacks(&'static str),
    /// The bundle's configuration.
    #[error("the container's bundle has no configuration with a root: {}: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// What a runtime says of a container.
#[derive(Debug)]
pub struct State(Value);

impl State {
    /// Reads one, and nothing behind it that is too much.
    pub fn read(input: impl Read) -> Result<Self, Error> {
        let mut bytes = Vec::new();
        if input.take(LARGEST + 1).read_to_end(&mut bytes)? as u64 > LARGEST {
            return Err(Error::Large);
        }
        Ok(Self(serde_json::from_slice(&bytes)?))
    }

    /// The container, and the pod that it is of; for people.
    pub fn subject(&self) -> Subject {
        let id = self.0.get("id").and_then(Value::as_str).unwrap_or_default();
        Subject::new(id, self.0.get("annotations").and_then(Value::as_object))
    }

    /// The pid of the container's first process, as the host counts.
    pub fn pid(&self) -> Result<NonZeroI32, Error> {
        let pid = self.0.get("pid").and_then(Value::as_i64).and_then(|pid| i32::try_from(pid).ok());
        pid.filter(|pid| *pid > 0).and_then(NonZeroI32::new).ok_or(Error::Lacks("pid"))
    }

    /// Where the runtime keeps the container's configuration: an absolute path.
    pub fn bundle(&self) -> Result<&Path, Error> {
        let bundle = self.0.get("bundle").and_then(Value::as_str).map(Path::new);
        bundle.filter(|bundle| bundle.is_absolute()).ok_or(Error::Lacks("bundle"))
    }

    /// The bundle's configuration.
    pub fn config(&self) -> Result<Config, Error> {
        let bundle = self.bundle()?;
        let path = bundle.join("config.json");
        let read = File::open(&path).map_err(|error| error.to_string()).and_then(|file| Config::read(bundle, file));
        read.map_err(|reason| Error::Config { path, reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pid(state: &str) -> Result<i32, String> {
        let pid = State::read(state.as_bytes()).and_then(|state| state.pid());
        pid.map(NonZeroI32::get).map_err(|error| error.to_string())
    }

    #[test]
    fn the_pid_is_taken_from_a_state_and_from_nothing_else() {
        let state = r#"{"ociVersion": "1.0.2", "id": "c", "status": "creating", "pid": 4422, "bundle": "/b"}"#;
        assert_eq!(pid(state), Ok(4422));
        for state in
            [r#"{"id": "c"}"#, r#"{"pid": 0}"#, r#"{"pid": -1}"#, r#"{"pid": "1"}"#, r#"{"pid": 4294967297}"#, "[1]"]
        {
            assert!(pid(state).unwrap_err().contains("no pid"), "{state}");
        }
        assert!(pid("").unwrap_err().contains("no JSON"));
    }

    #[test]
    fn a_state_without_an_end_is_given_up() {
        assert!(matches!(State::read(io::repeat(b' ')), Err(Error::Large)));
    }

    #[test]
    fn the_configuration_is_the_one_of_the_bundle() {
        let dir = tempfile::tempdir().unwrap();
        let told = |config: &str| {
            std::fs::write(dir.path().join("config.json"), config).unwrap();
            let state = format!(r#"{{"bundle": "{}"}}"#, dir.path().display());
            State::read(state.as_bytes()).unwrap().config().map_err(|error| error.to_string())
        };
        assert_eq!(told(r#"{"root": {"path": "rootfs"}}"#).unwrap().root, dir.path().join("rootfs"));
        assert!(told("{}").unwrap_err().contains("config.json"));
        for state in ["{}", r#"{"bundle": "b"}"#, r#"{"bundle": 1}"#] {
            assert!(matches!(State::read(state.as_bytes()).unwrap().config(), Err(Error::Lacks("bundle"))), "{state}");
        }
    }
}
