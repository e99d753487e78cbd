//! The webhook's flags and environment variables, for the program that runs it.
#![allow(clippy::doc_markdown, reason = "these comments are the text of --help, where backticks are noise")]
use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// An address that may be none, by a name that clap doesn't take for an argument that may be missing.
pub type Address = Option<SocketAddr>;

/// How the admission webhook is served.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Admission webhook")]
pub struct Args {
    /// Where the API server reaches the webhook: POST /validate, over TLS only. GET /healthz answers there too.
    ///
    /// Empty for no webhook.
    #[arg(long, env = "ALIQUOT_WEBHOOK_ADDRESS", default_value = "0.0.0.0:9443", value_parser = address, value_name = "IP:PORT")]
    pub webhook_address: Address,
    /// A directory with tls.crt and tls.key that someone else renews, such as cert-manager; followed as they change.
    ///
    /// Without it the webhook makes its certificates itself, keeps them in --webhook-secret, renews them after two thirds
    /// of their life, and writes whom to trust into --webhook-configuration.
    #[arg(long, env = "ALIQUOT_WEBHOOK_CERT_DIR", value_name = "DIR")]
    pub webhook_cert_dir: Option<PathBuf>,
    /// The Secret for certificates that the webhook makes itself. It must be there, and may be empty.
    #[arg(long, env = "ALIQUOT_WEBHOOK_SECRET", default_value = "aliquot-webhook", value_name = "NAME")]
    pub webhook_secret: String,
    /// The ValidatingWebhookConfiguration whose caBundle is kept up to date.
    #[arg(long, env = "ALIQUOT_WEBHOOK_CONFIGURATION", default_value = "aliquot-webhook", value_name = "NAME")]
    pub webhook_configuration: String,
    /// The Service by which the API server reaches the webhook; certificates are for SERVICE.NAMESPACE.svc.
    #[arg(long, env = "ALIQUOT_WEBHOOK_SERVICE", default_value = "aliquot-webhook", value_name = "NAME")]
    pub webhook_service: String,
    /// More names or IP addresses for certificates, where the API server calls a URL instead of the Service.
    #[arg(long, env = "ALIQUOT_WEBHOOK_HOSTS", value_delimiter = ',', value_name = "HOST")]
    pub webhook_host: Vec<String>,
    /// How long certificates that the webhook makes itself are good for: 90d, 36h, 30m or 20s.
    #[arg(long, env = "ALIQUOT_WEBHOOK_CERT_LIFE", default_value = "90d", value_parser = life, value_name = "TIME")]
    pub webhook_cert_life: Duration,
}

/// The shortest life in which two certificates can follow each other.
const SHORTEST: Duration = Duration::from_secs(5);
/// X.509 has no room for much more than that many years.
const LONGEST: Duration = Duration::from_hours(3650 * 24);

/// `0.0.0.0:9443`, `[::]:9443`, or nothing.
fn address(text: &str) -> Result<Address, String> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| "an IP address and a port are needed, such as 0.0.0.0:9443".to_owned())
}

/// As elsewhere, and in hours and days.
fn life(text: &str) -> Result<Duration, String> {
    let form = || "a time is a whole number and a unit (d, h, m or s), such as 90d".to_owned();
    let hours = |digits: &str, each: u64| {
        let number: u64 = digits.parse().map_err(|_| form())?;
        number.checked_mul(each * 3600).map(Duration::from_secs).ok_or_else(form)
    };
    let time = match (text.strip_suffix('d'), text.strip_suffix('h')) {
        (Some(days), _) => hours(days, 24)?,
        (None, Some(digits)) => hours(digits, 1)?,
        (None, None) => aliquot_params::duration(text).map_err(|_| form())?,
    };
    if (SHORTEST..=LONGEST).contains(&time) { Ok(time) } else { Err("5s to 3650d are possible".to_owned()) }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser};

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn every_flag_has_an_environment_variable_and_the_defaults_are_good() {
        Cli::command().debug_assert();
        for argument in Cli::command().get_arguments().filter(|argument| argument.get_id() != "help") {
            assert!(argument.get_env().is_some(), "{}", argument.get_id());
        }
        let defaults = Cli::parse_from(["x"]).args;
        assert_eq!(defaults.webhook_cert_life, Duration::from_hours(90 * 24));
        assert_eq!(defaults.webhook_address.map(|address| address.port()), Some(9443));
        assert_eq!(Cli::parse_from(["x", "--webhook-address="]).args.webhook_address, None);
    }

    #[test]
    fn a_life_has_a_unit_and_is_of_use() {
        assert_eq!(life("36h"), Ok(Duration::from_hours(36)));
        assert_eq!(life("20s"), Ok(Duration::from_secs(20)));
        for text in ["", "d", "90", "-1d", "1s", "0d", "4000d", "99999999999999999999d"] {
            assert!(life(text).is_err(), "{text:?}");
        }
    }
}
