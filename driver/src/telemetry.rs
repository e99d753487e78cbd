//! Logs, to standard error.
use std::io::IsTerminal as _;

use tracing_subscriber::{EnvFilter, fmt};

use crate::args::{LogFormat, Logs};

/// A log filter that can't be parsed.
#[derive(Debug, thiserror::Error)]
#[error("--log {filter:?} is no log filter; use error, warn, info, debug, trace, or such as \"info,dra_plugin=debug\"")]
pub(crate) struct BadFilter {
    filter: String,
    source: tracing_subscriber::filter::ParseError,
}

/// Starts logging for the life of the process.
pub(crate) fn start(logs: &Logs) -> Result<(), BadFilter> {
    let filter = EnvFilter::try_new(&logs.log).map_err(|source| BadFilter { filter: logs.log.clone(), source })?;
    let builder = fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    match logs.log_format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}
