//! What the driver tells of itself: logs to standard error, metrics and health over HTTP.
pub(crate) mod health;
pub(crate) mod metrics;
mod sampling;

use std::io::IsTerminal as _;

use tracing_subscriber::{
    filter::{ParseError, Targets},
    fmt,
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use crate::args::{LogFormat, Logs};

/// A log filter that can't be parsed.
#[derive(Debug, thiserror::Error)]
#[error("--log {filter:?} is no log filter; use error, warn, info, debug, trace, or such as \"info,dra_plugin=debug\"")]
pub(crate) struct BadFilter {
    filter: String,
    source: ParseError,
}

/// Starts logging for the life of the process.
pub(crate) fn start(logs: &Logs) -> Result<(), BadFilter> {
    let parsed = logs.log.parse::<Targets>();
    let filter = parsed.map_err(|source| BadFilter { filter: logs.log.clone(), source })?;
    let registry = tracing_subscriber::registry().with(filter);
    let lines = fmt::layer().with_writer(std::io::stderr).with_target(false);
    match logs.log_format {
        LogFormat::Text => registry.with(lines.with_ansi(std::io::stderr().is_terminal())).init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).init(),
    }
    Ok(())
}
