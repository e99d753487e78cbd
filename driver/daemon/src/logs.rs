//! Logs to standard error, and the flags that say how.
use std::io::IsTerminal as _;

use clap::{Args, ValueEnum};
use tracing_subscriber::{
    filter::{LevelFilter, ParseError, Targets},
    fmt,
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// Where kube's client logs requests that fail.
const CLIENT: &str = "kube_client::client::builder";

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
    let filter = filter(&logs.log)?;
    let registry = tracing_subscriber::registry().with(filter);
    let lines = fmt::layer().with_writer(std::io::stderr).with_target(false);
    match logs.log_format {
        LogFormat::Text => registry.with(lines.with_ansi(std::io::stderr().is_terminal())).init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).init(),
    }
    Ok(())
}

/// The client's own word on each request that fails says neither which nor what for; whoever made it has both, and tells. It is
/// there for those who name the client.
fn filter(text: &str) -> Result<Targets, BadFilter> {
    let parsed: Targets = text.parse().map_err(|source| BadFilter { filter: text.to_owned(), source })?;
    Ok(if text.contains("kube") { parsed } else { parsed.with_target(CLIENT, LevelFilter::OFF) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_bare_errors_are_for_those_who_ask_for_them() {
        let tells = |text: &str| filter(text).unwrap().would_enable(CLIENT, &tracing::Level::ERROR);
        assert!(!tells("info") && !tells("debug") && tells("info,kube_client=debug"));
        assert_eq!(filter("info").unwrap().default_level(), Some(LevelFilter::INFO));
        assert!(filter("loud=very").is_err());
    }
}
