//! Where cargo puts this library for the tests that load it.
use std::path::PathBuf;

const FILE: &str = "libfake_nvml.so";

/// The library that was built together with the running test: beside it, or where a whole build puts it.
pub fn built_library() -> Option<PathBuf> {
    let exe = std::env::current_exe().ok()?;
    exe.ancestors().skip(1).take(2).map(|dir| dir.join(FILE)).find(|path| path.is_file())
}
