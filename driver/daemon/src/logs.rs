//! Logs to standard error, and the flags that say how.
use std::io::IsTerminal as _;

use clap::{Args, ValueEnum};
use tracing_subscriber::{
    filter::{ParseError, Targets},
    fmt,
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// How logs are written, to standard error.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Logs")]
pub struct Logs {
    /// One line for people, or one JSON object a line.
    #[arg(long, env = "ALIQUOT_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// What to log: error, warn, info, debug, trace, or filters such as "info,kube=debug".
    #[arg(long, env = "ALIQUOT_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// A log filter that can't be parsed.
#[derive(Debug, thiserror::Error)]
#[error("--log {filter:?} is no log filter; use error, warn, info, debug, trace, or such as \"info,kube=debug\"")]
pub struct BadFilter {
    filter: String,
    source: ParseError,
}

/// Starts logging for the life of the process.
///
/// # Errors
///
/// The filter is none.
pub fn start(logs: &Logs) -> Result<(), BadFilter> {
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
