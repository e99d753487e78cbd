//! Every flag, typed; each has a twin in the environment.
#![allow(clippy::doc_markdown, reason = "these comments are the text of --help, where backticks are noise")]
use std::{net::SocketAddr, time::Duration};

use aliquot_daemon::logs::Logs;
use clap::{Args, Parser};

/// Removes the ResourceSlices that dead nodes leave behind, tells of ResourceClaims that are stuck, and refuses wrong
/// parameters.
///
/// Runs once per cluster, best with two replicas, of which the one that holds a Lease acts. Deletes the driver's
/// ResourceSlices whose Node is gone or was made anew. Tells, by Events on the claim and by metrics, of claims that are
/// being deleted and still hold GPUs, that are reserved for pods which are gone, or whose GPU is no longer there. Claims
/// are never changed, unless --release-stuck-claims is given. The admission webhook is served by every replica.
#[derive(Debug, Clone, Parser)]
#[command(name = "aliquot-controller", version)]
pub struct Cli {
    /// Whose slices and claims.
    #[command(flatten)]
    pub sweep: SweepArgs,
    /// Which replica acts.
    #[command(flatten)]
    pub lease: LeaseArgs,
    /// How wrong parameters are refused.
    #[command(flatten)]
    pub webhook: aliquot_admission::Args,
    /// Where metrics and probes are served: /metrics, /healthz, /readyz.
    #[arg(long, env = "ALIQUOT_HTTP_ADDRESS", default_value = "0.0.0.0:2113", value_name = "IP:PORT")]
    pub http_address: SocketAddr,
    /// How logs are written.
    #[command(flatten)]
    pub logs: Logs,
}

/// What is swept, and when.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Sweep")]
pub struct SweepArgs {
    /// The DRA driver's name: only its slices, and claims allocated by it, are looked at.
    #[arg(long, env = "ALIQUOT_DRIVER_NAME", default_value = "gpu.aliquot.dev", value_parser = driver_name, value_name = "NAME")]
    pub driver_name: String,
    /// How long a slice's Node must have been gone, or another one, before the slice is deleted.
    #[arg(long, env = "ALIQUOT_SLICE_GRACE", default_value = "5m", value_parser = duration, value_name = "TIME")]
    pub slice_grace: Duration,
    /// How long a claim must have been stuck before that is told.
    #[arg(long, env = "ALIQUOT_STUCK_AFTER", default_value = "10m", value_parser = duration, value_name = "TIME")]
    pub stuck_after: Duration,
    /// Remove reservations for pods that are gone from claims, and free a claim whose last reservation that was.
    ///
    /// kube-controller-manager does this by itself; a cluster needs it only where that fails. A pod counts as gone when the
    /// API server has said twice, --stuck-after apart, that there is none of its name and UID. Claims with devices of
    /// another driver are left alone. Needs the permissions of deploy/components/release-stuck-claims.
    #[arg(long, env = "ALIQUOT_RELEASE_STUCK_CLAIMS", value_parser = clap::builder::BoolishValueParser::new(),
        num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", value_name = "BOOL")]
    pub release_stuck_claims: bool,
    /// How many objects the API server is asked for at a time when all are read.
    #[arg(long, env = "ALIQUOT_PAGE_SIZE", default_value = "250", value_parser = clap::value_parser!(u32).range(1..=5000), value_name = "NUMBER")]
    pub page_size: u32,
}

/// How replicas agree on who acts.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Lease")]
pub struct LeaseArgs {
    /// What this replica is called in the Lease; must differ between replicas. The pod's name, or the host's.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub identity: Option<String>,
    /// The namespace of the Lease, and of the webhook's Service and Secret. The pod's, or the kubeconfig's.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME")]
    pub namespace: Option<String>,
    /// The name of the Lease.
    #[arg(long, env = "ALIQUOT_LEASE_NAME", default_value = "aliquot-controller", value_name = "NAME")]
    pub lease_name: String,
    /// How long a replica waits for one that doesn't renew the Lease any more; at least 1s.
    ///
    /// The Lease is renewed, and looked at, every third of this. A replica that could not renew it for two thirds stops
    /// acting.
    #[arg(long, env = "ALIQUOT_LEASE_DURATION", default_value = "60s", value_parser = lease_duration, value_name = "TIME")]
    pub lease_duration: Duration,
}

fn duration(text: &str) -> Result<Duration, aliquot_params::InvalidDuration> {
    aliquot_params::duration(text)
}

/// A Lease counts whole seconds.
fn lease_duration(text: &str) -> Result<Duration, String> {
    let duration = aliquot_params::duration(text).map_err(|error| error.to_string())?;
    if duration.as_secs() >= 1 && duration.subsec_nanos() == 0 && i32::try_from(duration.as_secs()).is_ok() {
        Ok(duration)
    } else {
        Err("a Lease lasts whole seconds, at least 1s".to_owned())
    }
}

/// It becomes part of a field selector, so nothing but a DNS subdomain will do.
fn driver_name(text: &str) -> Result<String, String> {
    let label = |label: &str| {
        let plain = label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        plain && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
    };
    if text.len() <= 63 && text.split('.').all(label) {
        Ok(text.to_owned())
    } else {
        Err("a driver's name is a DNS subdomain of at most 63 bytes, such as gpu.aliquot.dev".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_flag_has_an_environment_variable() {
        let command = Cli::command();
        command.clone().debug_assert();
        let flags = command.get_arguments().filter(|flag| !["help", "version"].contains(&flag.get_id().as_str()));
        let without: Vec<&str> =
            flags.filter(|flag| flag.get_env().is_none()).map(|flag| flag.get_id().as_str()).collect();
        assert!(without.is_empty(), "{without:?}");
    }

    #[test]
    fn what_cannot_work_is_refused_on_the_command_line() {
        let refused = |flag: &str| Cli::try_parse_from(["aliquot-controller", flag]).is_err();
        for flag in [
            "--driver-name=a,spec.nodeName=b",
            "--driver-name=A.b",
            "--lease-duration=500ms",
            "--page-size=0",
            "--slice-grace=soon",
            "--release-stuck-claims=perhaps",
        ] {
            assert!(refused(flag), "{flag}");
        }
        let cli = Cli::try_parse_from(["aliquot-controller", "--release-stuck-claims"]).unwrap();
        assert!(cli.sweep.release_stuck_claims);
    }
}
