//! The OCI state that a runtime writes to a hook's standard input: of it, the container's first process.
use std::{
    io::{self, Read},
    num::NonZeroI32,
};

use serde_json::Value;

/// Annotations are the bulk of a state, and Kubernetes holds those of a pod to a quarter of this.
const LARGEST: u64 = 1 << 20;

/// Why there is no process.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the container's state can't be read from standard input: {0}")]
    Read(#[from] io::Error),
    #[error("the container's state on standard input is larger than {LARGEST} bytes")]
    Large,
    #[error("the container's state on standard input is no JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the container's state on standard input has no pid")]
    NoPid,
}

/// The pid of the container's first process, as the host counts.
pub(crate) fn pid(input: impl Read) -> Result<NonZeroI32, Error> {
    let mut bytes = Vec::new();
    if input.take(LARGEST + 1).read_to_end(&mut bytes)? as u64 > LARGEST {
        return Err(Error::Large);
    }
    let state: Value = serde_json::from_slice(&bytes)?;
    let pid = state.get("pid").and_then(Value::as_i64).and_then(|pid| i32::try_from(pid).ok());
    pid.filter(|pid| *pid > 0).and_then(NonZeroI32::new).ok_or(Error::NoPid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(state: &str) -> Result<i32, String> {
        pid(state.as_bytes()).map(NonZeroI32::get).map_err(|error| error.to_string())
    }

    #[test]
    fn the_pid_is_taken_from_a_state_and_from_nothing_else() {
        let state = r#"{"ociVersion": "1.0.2", "id": "c", "status": "creating", "pid": 4422, "bundle": "/b"}"#;
        assert_eq!(told(state), Ok(4422));
        for state in
            [r#"{"id": "c"}"#, r#"{"pid": 0}"#, r#"{"pid": -1}"#, r#"{"pid": "1"}"#, r#"{"pid": 4294967297}"#, "[1]"]
        {
            assert!(told(state).unwrap_err().contains("no pid"), "{state}");
        }
        assert!(told("").unwrap_err().contains("no JSON"));
    }

    #[test]
    fn a_state_without_an_end_is_given_up() {
        assert!(matches!(pid(io::repeat(b' ')), Err(Error::Large)));
    }
}
