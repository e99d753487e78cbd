//! Named places at which tests kill the process: every step of prepare and unprepare that changes anything.
//!
//! In release builds a point is nothing.

/// Ends the process, as SIGKILL would, if `ALIQUOT_FAULT` names this point.
#[cfg(debug_assertions)]
pub(crate) fn point(name: &str) {
    if std::env::var("ALIQUOT_FAULT").is_ok_and(|wanted| wanted == name) {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
pub(crate) fn point(_name: &str) {}
