//! What the library is told by its surroundings: environment variables, or a file beside it.
use std::{ffi::OsString, path::Path};

/// A file beside the library with a line `NAME=value` for each variable, which the process's environment overrides. It
/// reaches a process that was started with none of the variables, as the driver starts `nvidia-smi`.
pub const SETTINGS: &str = "fake-nvml.env";

/// A variable's value for the library in a file.
pub(crate) fn value(name: &str, library: &Path) -> Option<OsString> {
    std::env::var_os(name).or_else(|| {
        // The driver's libraries are links; what lies beside them lies beside what they lead to.
        let library = library.canonicalize().ok()?;
        let text = std::fs::read_to_string(library.with_file_name(SETTINGS)).ok()?;
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).map(OsString::from)
    })
}
