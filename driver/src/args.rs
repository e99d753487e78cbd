//! Every flag and environment variable of the driver, typed.
#![allow(clippy::doc_markdown, reason = "these comments are the text of --help, where backticks are noise")]
use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Hands out NVIDIA GPUs to Kubernetes pods through Dynamic Resource Allocation.
///
/// Runs on each node with GPUs, finds them through NVML, publishes them as ResourceSlices, and prepares the
/// ResourceClaims of pods by writing one CDI spec per claim.
#[derive(Debug, Parser)]
#[command(name = "aliquot-driver", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the binary can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve this node: publish its GPUs and prepare claims, until SIGTERM.
    ///
    /// Needs root on the node, access to the API server (in-cluster or KUBECONFIG) and the kubelet's root directory at
    /// the same path inside and outside of the container.
    Run(Box<RunArgs>),
    /// Print what this node would publish; no cluster needed.
    Inspect(Box<InspectArgs>),
}

/// Where things are on this node.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Places")]
pub struct Places {
    /// Where the NVIDIA driver is installed, as this process sees it.
    ///
    /// "/" for a driver installed on the host; /run/nvidia/driver for NVIDIA's driver container. It may appear after
    /// the start: it is watched.
    #[arg(long, env = "ALIQUOT_DRIVER_ROOT", default_value = "/", value_parser = absolute, value_name = "DIR")]
    pub driver_root: PathBuf,
    /// The same installation as the host names it, if this process sees it elsewhere (a mount in a container).
    #[arg(long, env = "ALIQUOT_DRIVER_ROOT_ON_HOST", value_parser = absolute, value_name = "DIR")]
    pub driver_root_on_host: Option<PathBuf>,
    /// Where the kubelet keeps its state; some distributions move it (k0s: /var/lib/k0s/kubelet).
    #[arg(long, env = "ALIQUOT_KUBELET_ROOT", default_value = "/var/lib/kubelet", value_parser = absolute, value_name = "DIR")]
    pub kubelet_root: PathBuf,
    /// Where the container runtime looks for CDI specs that live until the next boot.
    #[arg(long, env = "ALIQUOT_CDI_ROOT", default_value = "/var/run/cdi", value_parser = absolute, value_name = "DIR")]
    pub cdi_root: PathBuf,
    /// Where the records of prepared claims are kept; should be a tmpfs, as they end with the boot.
    #[arg(long, env = "ALIQUOT_RUN_ROOT", default_value = "/run/aliquot", value_parser = absolute, value_name = "DIR")]
    pub run_root: PathBuf,
    /// Device nodes.
    #[arg(long, env = "ALIQUOT_DEV_ROOT", default_value = "/dev", value_parser = absolute, value_name = "DIR", hide_short_help = true)]
    pub dev_root: PathBuf,
    /// sysfs.
    #[arg(long, env = "ALIQUOT_SYS_ROOT", default_value = "/sys", value_parser = absolute, value_name = "DIR", hide_short_help = true)]
    pub sys_root: PathBuf,
    /// procfs.
    #[arg(long, env = "ALIQUOT_PROC_ROOT", default_value = "/proc", value_parser = absolute, value_name = "DIR", hide_short_help = true)]
    pub proc_root: PathBuf,
}

/// Who this driver is.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Identity")]
pub struct Identity {
    /// The name of the Kubernetes node this runs on; in a DaemonSet from spec.nodeName.
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub node_name: String,
    /// The DRA driver's name: a DNS subdomain. DeviceClasses select devices by it.
    #[arg(long, env = "ALIQUOT_DRIVER_NAME", default_value = "gpu.aliquot.dev", value_name = "NAME")]
    pub driver_name: String,
}

/// How logs are written, to standard error.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Logs")]
pub struct Logs {
    /// One line for people, or one JSON object a line.
    #[arg(long, env = "ALIQUOT_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// What to log: error, warn, info, debug, trace, or filters such as "info,dra_plugin=debug".
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

/// `aliquot-driver run`.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// Who this driver is.
    #[command(flatten)]
    pub identity: Identity,
    /// Where things are.
    #[command(flatten)]
    pub places: Places,
    /// Log form.
    #[command(flatten)]
    pub logs: Logs,
    /// This pod's UID (from metadata.uid): sockets get a name of their own, so that an old and a new pod can serve side
    /// by side during a rolling update.
    #[arg(long, env = "POD_UID", value_name = "UID")]
    pub pod_uid: Option<String>,
    /// How long a prepare call may wait and retry before it answers with an error; the kubelet gives up after 45 s.
    #[arg(long, env = "ALIQUOT_PREPARE_BUDGET", default_value = "35s", value_parser = duration, value_name = "TIME")]
    pub prepare_budget: Duration,
    /// How often GPUs are read again, since NVML tells of no GPU that comes or goes; device nodes and the driver's
    /// installation are watched besides.
    #[arg(long, env = "ALIQUOT_RESCAN_INTERVAL", default_value = "30s", value_parser = duration, value_name = "TIME")]
    pub rescan_interval: Duration,
    /// How long NVML may take for one reading before it counts as hung.
    #[arg(long, env = "ALIQUOT_NVML_DEADLINE", default_value = "20s", value_parser = duration, value_name = "TIME")]
    pub nvml_deadline: Duration,
}

/// `aliquot-driver inspect`.
#[derive(Debug, Clone, Args)]
pub struct InspectArgs {
    /// The node's name in the pool's name.
    #[arg(long, env = "NODE_NAME", default_value = "localhost", value_name = "NAME")]
    pub node_name: String,
    /// The DRA driver's name.
    #[arg(long, env = "ALIQUOT_DRIVER_NAME", default_value = "gpu.aliquot.dev", value_name = "NAME")]
    pub driver_name: String,
    /// Where things are.
    #[command(flatten)]
    pub places: Places,
    /// A table, or the ResourceSlices as YAML or JSON.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// How long NVML may take for the reading.
    #[arg(long, env = "ALIQUOT_NVML_DEADLINE", default_value = "20s", value_parser = duration, value_name = "TIME")]
    pub nvml_deadline: Duration,
}

/// The form of what `inspect` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// As `kubectl get resourceslices -o yaml` would.
    Yaml,
    /// As `kubectl get resourceslices -o json` would.
    Json,
}

/// A path that means the same on the host, to the kubelet and to the container runtime.
fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let is_plain = path.components().all(|part| part != std::path::Component::ParentDir);
    if path.is_absolute() && is_plain { Ok(path) } else { Err("an absolute path without \"..\" is needed".to_owned()) }
}

/// `35s`, `500ms` or `2m`; more than nothing.
fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .and_then(|time| if time.is_zero() { Err("it must be more than 0".to_owned()) } else { Ok(time) })
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| "a time is a number and a unit, such as 35s".to_owned())?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs).ok_or_else(|| "too long".to_owned()),
        _ => Err(format!("unknown unit {unit:?}: use ms, s or m, such as 35s")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_has_an_environment_variable() {
        for name in ["run", "inspect"] {
            let cli = Cli::command();
            let command = cli.find_subcommand(name).unwrap();
            for arg in command.get_arguments() {
                let id = arg.get_id().as_str();
                if !["help", "version", "output"].contains(&id) {
                    assert!(arg.get_env().is_some(), "{name} --{id}");
                }
            }
        }
    }

    #[test]
    fn places_are_absolute() {
        assert!(Cli::try_parse_from(["x", "inspect", "--driver-root", "driver"]).is_err());
        assert!(Cli::try_parse_from(["x", "inspect", "--cdi-root", "/var/../etc"]).is_err());
        assert!(Cli::try_parse_from(["x", "inspect", "--driver-root", "/run/nvidia/driver"]).is_ok());
    }

    #[test]
    fn times_need_a_unit() {
        assert_eq!(duration("35s"), Ok(Duration::from_secs(35)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert!(duration("0s").is_err(), "a rescan without a pause would never end");
        assert!(duration("35").is_err());
        assert!(duration("-1s").is_err());
        assert!(duration("99999999999999999999m").is_err());
    }
}
